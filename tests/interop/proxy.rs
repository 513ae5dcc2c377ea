//! A cable that changes messages: it stands between our speaker and the daemon and damages what it is told to.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use ipnet::IpNet;
use margay_netlink::Netns;
use margay_tests::cluster::wait;
use socket2::{Domain, Socket, Type};

use crate::lab::{FOREIGN, PATIENCE, PROXY, Transport, address};

const HEADER: usize = 19;
const UPDATE: u8 = 2;

const NEXT_HOP: u8 = 3;
const MP_REACH_NLRI: u8 = 14;
const MP_UNREACH_NLRI: u8 = 15;

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Towards {
    Us,
    Them,
}

/// What is done to one message.
#[derive(Debug, Clone)]
pub(crate) enum Damage {
    /// The marker is not all ones (RFC 4271 section 4.1).
    Marker,
    /// The attributes' length passes the message's end.
    Attributes,
    /// An attribute has these flags and this value; it is added where there is none.
    Attribute { flags: u8, code: u8, value: &'static [u8] },
    /// MP_REACH_NLRI comes twice.
    Twice,
    /// Other octets where the next hop is: in NEXT_HOP or in MP_REACH_NLRI.
    NextHop(&'static [u8]),
    /// Other octets where the prefixes are.
    Prefixes(&'static [u8]),
}

/// What is waited for: UPDATEs in a direction that announce this prefix, to damage them, or one that withdraws it.
#[derive(Debug)]
struct Order {
    towards: Towards,
    /// As NLRI.
    prefix: Vec<u8>,
    damage: Option<Damage>,
    done: bool,
}

/// Ends with the namespace it runs in.
pub(crate) struct Proxy {
    order: Arc<Mutex<Option<Order>>>,
}

impl Proxy {
    /// Takes connections of our speaker `last` and passes them on to the daemon.
    pub(crate) fn start(netns: &Netns, transport: Transport, last: u8) -> Result<Self> {
        let [own, client, server] =
            [PROXY, last, FOREIGN].map(|last| SocketAddr::new(address(transport, last), 0));
        let listen = SocketAddr::new(own.ip(), margay_bgp::BGP_PORT);
        let listener = netns.run(|| TcpListener::bind(listen))??;
        let order = Arc::new(Mutex::new(None));
        let (orders, netns) = (Arc::clone(&order), netns.try_clone()?);
        std::thread::spawn(move || {
            // Sockets made here are of the namespace; without it nothing is passed on, and the case fails.
            let _entered = netns.enter();
            for near in listener.incoming().flatten() {
                // The daemon dials as well; it is turned away.
                if near.peer_addr().is_ok_and(|from| from.ip() == client.ip()) {
                    let _lost = pass_on(near, own, server, &orders);
                }
            }
        });
        Ok(Self { order })
    }

    /// Orders damage for UPDATEs that announce a prefix of whole octets, does what makes the sender announce it, and
    /// waits until one has been damaged.
    pub(crate) fn damage(
        &self,
        towards: Towards,
        prefix: IpNet,
        damage: Damage,
        announce: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.order(towards, prefix, Some(damage), announce).context("no message to damage came by")
    }

    /// Does what makes the sender withdraw a prefix, and waits until the withdrawal has come by. Nothing less shows that
    /// it has been said: a daemon that is told to announce again before it has spoken says nothing at all.
    pub(crate) fn withdrawal(
        &self,
        towards: Towards,
        prefix: IpNet,
        withdraw: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.order(towards, prefix, None, withdraw).context("no withdrawal came by")
    }

    fn order(
        &self,
        towards: Towards,
        prefix: IpNet,
        damage: Option<Damage>,
        act: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let octets = match prefix.addr() {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let length = prefix.prefix_len();
        let prefix = [&[length][..], &octets[..usize::from(length / 8)]].concat();
        *self.order.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Order { towards, prefix, damage, done: false });
        act()?;
        wait(PATIENCE, || {
            let order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(order.as_ref().is_some_and(|order| order.done))
        })
    }

    /// Passes on everything as it is again.
    pub(crate) fn heal(&self) {
        *self.order.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn pass_on(
    near: TcpStream,
    own: SocketAddr,
    server: SocketAddr,
    order: &Arc<Mutex<Option<Order>>>,
) -> std::io::Result<()> {
    let socket = Socket::new(Domain::for_address(own), Type::STREAM, None)?;
    socket.bind(&own.into())?;
    socket.connect(&SocketAddr::new(server.ip(), margay_bgp::BGP_PORT).into())?;
    let far = TcpStream::from(socket);
    for (from, to, towards) in
        [(near.try_clone()?, far.try_clone()?, Towards::Them), (far, near, Towards::Us)]
    {
        let order = Arc::clone(order);
        std::thread::spawn(move || {
            let _lost = pump(&from, &to, towards, &order);
            // What was sent before is delivered; then both ends see that it is over.
            let _closed = to.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}

fn pump(
    mut from: &TcpStream,
    mut to: &TcpStream,
    towards: Towards,
    order: &Mutex<Option<Order>>,
) -> std::io::Result<()> {
    loop {
        let mut message = vec![0; HEADER];
        from.read_exact(&mut message)?;
        let length = usize::from(u16::from_be_bytes([message[16], message[17]]));
        message.resize(length.max(HEADER), 0);
        from.read_exact(&mut message[HEADER..])?;
        let mut order = order.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(due) = order.as_mut().filter(|order| order.towards == towards)
            && let Some(parts) = Parts::of(&message)
        {
            let names = |(_, prefixes): (_, &[u8])| {
                prefixes.windows(due.prefix.len()).any(|octets| octets == due.prefix)
            };
            match &due.damage {
                Some(damage) if names(parts.announced()) => {
                    message = parts.damaged(damage);
                    due.done = true;
                }
                Some(_) => {}
                None => due.done |= names(parts.withdrawn()),
            }
        }
        drop(order);
        to.write_all(&message)?;
    }
}

/// An UPDATE (RFC 4271 section 4.3).
struct Parts {
    withdrawn: Vec<u8>,
    /// Flags, code, value.
    attributes: Vec<(u8, u8, Vec<u8>)>,
    nlri: Vec<u8>,
}

impl Parts {
    fn of(message: &[u8]) -> Option<Self> {
        let body = message.get(HEADER..).filter(|_| message.get(18) == Some(&UPDATE))?;
        let (withdrawn, rest) = counted(body)?;
        let (mut list, nlri) = counted(rest)?;
        let mut attributes = Vec::new();
        while let [flags, code, rest @ ..] = list {
            let (length, rest) = if flags & 0x10 == 0 {
                (usize::from(*rest.first()?), rest.get(1..)?)
            } else {
                (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), rest.get(2..)?)
            };
            attributes.push((*flags, *code, rest.get(..length)?.to_vec()));
            list = rest.get(length..)?;
        }
        Some(Self { withdrawn: withdrawn.to_vec(), attributes, nlri: nlri.to_vec() })
    }

    fn value(&self, code: u8) -> Option<&[u8]> {
        self.attributes.iter().find(|(_, of, _)| *of == code).map(|(_, _, value)| &value[..])
    }

    /// The next hop and the prefixes of MP_REACH_NLRI (RFC 4760 section 3) or, without it, of UPDATE's own fields.
    fn announced(&self) -> (&[u8], &[u8]) {
        let reach = self.value(MP_REACH_NLRI).and_then(|value| {
            let next_hop = value.get(4..4 + usize::from(*value.get(3)?))?;
            Some((next_hop, value.get(5 + next_hop.len()..)?))
        });
        reach.unwrap_or_else(|| (self.value(NEXT_HOP).unwrap_or_default(), &self.nlri))
    }

    /// Family and prefixes of MP_UNREACH_NLRI (section 4) or, without it, of UPDATE's own field.
    fn withdrawn(&self) -> (&[u8], &[u8]) {
        let unreach = self.value(MP_UNREACH_NLRI).and_then(|value| value.split_at_checked(3));
        unreach.unwrap_or((&[], &self.withdrawn))
    }

    /// Says this next hop and these prefixes, where it said others.
    fn announce(&mut self, next_hop: &[u8], prefixes: &[u8]) {
        let mut set = |code, value: &dyn Fn(&[u8]) -> Vec<u8>| {
            let attribute = self.attributes.iter_mut().find(|(_, of, _)| *of == code);
            attribute.map(|(_, _, old)| *old = value(old)).is_some()
        };
        let reach = |old: &[u8]| {
            let length = u8::try_from(next_hop.len()).unwrap_or(u8::MAX);
            [&old[..3], &[length], next_hop, &[0], prefixes].concat()
        };
        if !set(MP_REACH_NLRI, &reach) {
            set(NEXT_HOP, &|_| next_hop.to_vec());
            self.nlri = prefixes.to_vec();
        }
    }

    fn damaged(mut self, damage: &Damage) -> Vec<u8> {
        let (next_hop, prefixes) = self.announced();
        let (next_hop, prefixes) = (next_hop.to_vec(), prefixes.to_vec());
        match damage {
            Damage::Attribute { flags, code, value } => {
                self.attributes.retain(|(_, of, _)| of != code);
                // The last, because FRR 8.4 looks for the NLRI where the error made it stop.
                self.attributes.push((*flags, *code, value.to_vec()));
            }
            Damage::Twice => {
                let reach = self.attributes.iter().find(|(_, code, _)| *code == MP_REACH_NLRI).cloned();
                self.attributes.extend(reach);
            }
            Damage::NextHop(octets) => self.announce(octets, &prefixes),
            Damage::Prefixes(octets) => self.announce(&next_hop, octets),
            Damage::Marker | Damage::Attributes => {}
        }
        let mut attributes = Vec::new();
        for (flags, code, value) in &self.attributes {
            attributes.extend([flags | 0x10, *code]);
            attributes.extend(length(value.len()));
            attributes.extend(value);
        }
        let mut message = vec![0xff; 16];
        if matches!(damage, Damage::Marker) {
            message[3] = 0;
        }
        let total = HEADER + 4 + self.withdrawn.len() + attributes.len() + self.nlri.len();
        message.extend(length(total));
        message.push(UPDATE);
        message.extend(length(self.withdrawn.len()));
        message.extend(&self.withdrawn);
        let beyond = if matches!(damage, Damage::Attributes) { 1000 } else { 0 };
        message.extend(length(attributes.len() + beyond));
        message.extend(attributes);
        message.extend(&self.nlri);
        message
    }
}

/// Two octets.
fn length(value: usize) -> [u8; 2] {
    u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes()
}

/// What a length of two octets in front counts, and the rest.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}
