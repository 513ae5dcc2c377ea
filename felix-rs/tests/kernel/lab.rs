//! A node with pods and an outside host, made of network namespaces, and probes through it.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use margay_netlink::Netns;

/// How long a probe waits before it is called denied.
const PATIENCE: Duration = Duration::from_millis(400);
const GATEWAY_MAC: &str = "ee:ee:ee:ee:ee:ee";
const GATEWAY_V6: &str = "fe80::ecee:eeff:feee:eeee";
/// Node's address on the pods' side of nowhere.
pub(crate) const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1));
pub(crate) const NODE_UPLINK: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
pub(crate) const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
/// Ports with TCP echo on every host.
pub(crate) const TCP_PORTS: [u16; 2] = [80, 8080];
/// Port with UDP echo on every host: answers with the source address and port it saw.
pub(crate) const UDP_PORT: u16 = 53;

/// A namespace with echo servers.
pub(crate) struct Host {
    pub(crate) netns: Netns,
    stop: Arc<AtomicBool>,
    probes: AtomicU16,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Host {
    pub(crate) fn new() -> Self {
        let host = Self { netns: Netns::new().unwrap(), stop: Arc::default(), probes: AtomicU16::new(0) };
        // Without duplicate address detection an address can be used at once.
        host.sh("sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
             ip link set lo up");
        host
    }

    fn serve(&self) {
        self.netns
            .run(|| {
                for port in TCP_PORTS {
                    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
                    let stop = Arc::clone(&self.stop);
                    listener.set_nonblocking(true).unwrap();
                    std::thread::spawn(move || serve_tcp(&listener, &stop));
                }
                let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, UDP_PORT)).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                let stop = Arc::clone(&self.stop);
                std::thread::spawn(move || serve_udp(&socket, &stop));
            })
            .unwrap();
    }

    /// Runs a shell script inside; it must succeed.
    pub(crate) fn sh(&self, script: &str) -> String {
        let output = self.netns.run(|| Command::new("sh").args(["-ec", script]).output().unwrap()).unwrap();
        assert!(
            output.status.success(),
            "{script}\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// A connection, if one can be made.
    pub(crate) fn connect(&self, to: IpAddr, port: u16) -> Option<TcpStream> {
        let stream = self
            .netns
            .run(|| TcpStream::connect_timeout(&SocketAddr::new(to, port), PATIENCE))
            .unwrap()
            .ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Some(stream)
    }

    pub(crate) fn tcp(&self, to: IpAddr, port: u16) -> bool {
        self.asks(|| self.connect(to, port).is_some_and(|mut stream| echo(&mut stream)))
    }

    /// Whether a probe is answered. On a machine that is too busy to answer even itself in time, silence means little: it
    /// is asked again.
    pub(crate) fn asks(&self, mut probe: impl FnMut() -> bool) -> bool {
        for _ in 0..5 {
            if probe() {
                return true;
            }
            let begun = Instant::now();
            let itself = self.connect(Ipv4Addr::LOCALHOST.into(), TCP_PORTS[0]);
            let answered = itself.is_some_and(|mut stream| echo(&mut stream));
            if answered && begun.elapsed() < PATIENCE / 20 {
                return false;
            }
        }
        false
    }

    /// The source address the other end saw, if the packet and its answer arrived.
    pub(crate) fn udp_from(&self, from: Option<IpAddr>, to: IpAddr, port: u16) -> Option<IpAddr> {
        self.udp_seen(from, to, port).map(|seen| seen.ip())
    }

    /// The same with the port.
    pub(crate) fn udp_seen(&self, from: Option<IpAddr>, to: IpAddr, port: u16) -> Option<SocketAddr> {
        let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // A port that an earlier probe had may still be an established flow, which no policy denies.
        let own = 10_000 + self.probes.fetch_add(1, Ordering::Relaxed) % 20_000;
        let socket = self.netns.run(|| UdpSocket::bind((from.unwrap_or(any), own))).unwrap().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"probe", (to, port)).ok()?;
        let mut answer = [0; 64];
        let (length, _) = socket.recv_from(&mut answer).ok()?;
        Some(std::str::from_utf8(&answer[..length]).unwrap().parse().unwrap())
    }

    pub(crate) fn udp(&self, to: IpAddr) -> bool {
        self.asks(|| self.udp_from(None, to, UDP_PORT).is_some())
    }

    pub(crate) fn ping(&self, to: IpAddr) -> bool {
        let address = to.to_string();
        let ping = || Command::new("ping").args(["-n", "-c1", "-W0.4", &address]).output().unwrap().status;
        self.asks(|| self.netns.run(ping).unwrap().success())
    }
}

/// Whether an established connection carries data both ways.
pub(crate) fn echo(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 4];
    stream.write_all(b"echo").is_ok() && stream.read_exact(&mut answer).is_ok() && &answer == b"echo"
}

fn serve_tcp(listener: &TcpListener, stop: &Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let stop = Arc::clone(stop);
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            while !stop.load(Ordering::Relaxed) {
                match stream.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(length) if stream.write_all(&buffer[..length]).is_err() => return,
                    _ => {}
                }
            }
        });
    }
}

fn serve_udp(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let seen = SocketAddr::new(from.ip().to_canonical(), from.port()).to_string();
            drop(socket.send_to(seen.as_bytes(), from));
        }
    }
}

/// A pod: its namespace and what the node knows of it.
pub(crate) struct Pod {
    pub(crate) host: Host,
    pub(crate) name: &'static str,
    pub(crate) interface: String,
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
}

impl std::ops::Deref for Pod {
    type Target = Host;
    fn deref(&self) -> &Host {
        &self.host
    }
}

/// Joins a pod to its node as the CNI plugin does.
pub(crate) fn wire(node: &Host, pod: &Host, interface: &str, v4: IpAddr, v6: IpAddr) {
    node.sh(&format!(
        "ip link add {interface} type veth peer name eth0 netns {}
         ip link set {interface} address {GATEWAY_MAC} up
         ip route add {v4}/32 dev {interface}
         ip -6 route add {v6}/128 dev {interface}",
        pod.netns.path().display()
    ));
    pod.sh(&format!(
        "ip link set eth0 up
         ip address add {v4}/32 dev eth0
         ip -6 address add {v6}/128 dev eth0 nodad
         ip route add 169.254.1.1 dev eth0 scope link
         ip route add default via 169.254.1.1 dev eth0
         ip neighbour replace 169.254.1.1 lladdr {GATEWAY_MAC} dev eth0 nud permanent
         ip -6 neighbour replace {GATEWAY_V6} lladdr {GATEWAY_MAC} dev eth0 nud permanent
         ip -6 route add default via {GATEWAY_V6} dev eth0"
    ));
    until_up(node, interface);
    until_up(pod, "eth0");
}

/// Waits until a link is seen to have a carrier: before, it drops what it is given.
fn until_up(host: &Host, interface: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !host.sh(&format!("ip -brief link show {interface}")).contains(" UP ") {
        assert!(Instant::now() < deadline, "{interface} has no carrier");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Node, pods, and a host outside.
pub(crate) struct Lab {
    pub(crate) node: Host,
    pub(crate) outside: Host,
    pub(crate) pods: Vec<Pod>,
}

impl Lab {
    /// A node with these pods, wired as the CNI plugin does.
    pub(crate) fn new(names: &[&'static str]) -> Self {
        let node = Host::new();
        let outside = Host::new();
        node.sh(&format!(
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
             ip address add {NODE}/32 dev lo
             ip address add fd99::1/128 dev lo
             ip link add uplink0 type veth peer name uplink0 netns {}
             ip address add {NODE_UPLINK}/24 dev uplink0
             ip link set uplink0 up",
            outside.netns.path().display()
        ));
        outside.sh(&format!(
            "ip address add {OUTSIDE}/24 dev uplink0
             ip link set uplink0 up
             ip route add 10.0.0.0/16 via {NODE_UPLINK}
             ip route add 10.99.0.1/32 via {NODE_UPLINK}"
        ));
        until_up(&node, "uplink0");
        until_up(&outside, "uplink0");
        let mut lab = Self { node, outside, pods: Vec::new() };
        for name in names {
            lab.add(name);
        }
        lab.node.serve();
        lab.outside.serve();
        lab
    }

    fn add(&mut self, name: &'static str) {
        let number = u8::try_from(self.pods.len() + 2).unwrap();
        let pod = Pod {
            host: Host::new(),
            name,
            interface: format!("mgy{name}"),
            v4: Ipv4Addr::new(10, 0, 0, number).into(),
            v6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into(),
        };
        let Pod { interface, v4, v6, .. } = &pod;
        wire(&self.node, &pod, interface, *v4, *v6);
        pod.serve();
        self.pods.push(pod);
    }

    /// Takes all links of the node down: from now on no packet changes a counter.
    pub(crate) fn silence(&self) {
        for pod in &self.pods {
            self.node.sh(&format!("ip link set {} down", pod.interface));
        }
        self.node.sh("ip link set uplink0 down");
    }

    pub(crate) fn pod(&self, name: &str) -> &Pod {
        self.pods.iter().find(|pod| pod.name == name).unwrap()
    }
}
