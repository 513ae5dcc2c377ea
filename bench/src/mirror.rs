//! A reflector that does the least there is to do: no table, no policy, no decision. What a client announces gets
//! ORIGINATOR_ID and CLUSTER_LIST and goes, as it came, to everybody. It shows what the machine can do.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use margay_bgp::wire::{
    AfiSafi, Capability, Framer, Message, MessageType, NextHop, Nlri, Open, Update, UpdateEncoder, decode,
};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Protocol, Socket, Type};

use crate::plan::{AS, REFLECTOR, SESSION};

const BACKLOG: i32 = 16_384;
const LISTENER: u64 = u64::MAX;

#[derive(Debug)]
struct Peer {
    socket: TcpStream,
    address: Ipv4Addr,
    framer: Framer,
    up: bool,
    /// What goes out before the log.
    control: Vec<u8>,
    /// Where in the log it is.
    position: usize,
    writing: bool,
    /// What it announced, as often as it did, to be withdrawn when it goes.
    routes: Vec<Nlri>,
}

#[derive(Debug)]
struct Mirror {
    epoll: Epoll,
    peers: HashMap<u64, Peer>,
    log: BytesMut,
    encoder: UpdateEncoder,
}

/// Runs until it is killed.
pub(crate) fn run() -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddrV4::new(REFLECTOR, 179).into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut mirror =
        Mirror { epoll, peers: HashMap::new(), log: BytesMut::new(), encoder: UpdateEncoder::new(SESSION) };
    let mut events = vec![EpollEvent::empty(); 1024];
    let mut next = 0;
    loop {
        let count = mirror.epoll.wait(&mut events, EpollTimeout::NONE)?;
        let before = mirror.log.len();
        for event in events.iter().take(count) {
            if event.data() == LISTENER {
                while let Ok((socket, remote)) = listener.accept() {
                    mirror.accepted(next, socket, remote)?;
                    next += 1;
                }
            } else {
                mirror.ready(event.data(), event.events())?;
            }
        }
        if mirror.log.len() > before {
            let idle =
                mirror.peers.iter().filter(|(_, peer)| peer.up && !peer.writing).map(|(number, _)| *number);
            let mut idle: Vec<u64> = idle.collect();
            idle.sort_unstable();
            for number in idle {
                mirror.write(number)?;
            }
        }
    }
}

impl Mirror {
    fn accepted(&mut self, number: u64, socket: TcpStream, remote: SocketAddr) -> Result<()> {
        let SocketAddr::V4(remote) = remote else { bail!("a client with IPv6") };
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        self.epoll.add(socket.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, number))?;
        let capabilities = vec![Capability::MultiProtocol(AfiSafi::Ipv4Unicast), Capability::FourOctetAs(AS)];
        let mut hello = BytesMut::new();
        Message::Open(Open::new(AS, 180, REFLECTOR, capabilities)).encode(&SESSION, &mut hello)?;
        Message::Keepalive.encode(&SESSION, &mut hello)?;
        let peer = Peer {
            socket,
            address: *remote.ip(),
            framer: Framer::new(),
            up: false,
            control: hello.to_vec(),
            position: 0,
            writing: false,
            routes: Vec::new(),
        };
        self.peers.insert(number, peer);
        self.write(number)
    }

    fn ready(&mut self, number: u64, flags: EpollFlags) -> Result<()> {
        if flags.contains(EpollFlags::EPOLLOUT) {
            self.write(number)?;
        }
        if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            self.read(number)?;
        }
        Ok(())
    }

    fn read(&mut self, number: u64) -> Result<()> {
        let Self { peers, log, encoder, .. } = self;
        let Some(peer) = peers.get_mut(&number) else { return Ok(()) };
        let mut buffer = [0; 64 << 10];
        let count = match peer.socket.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(_) => 0,
        };
        if count == 0 {
            peer.routes.sort_unstable();
            peer.routes.dedup();
            encoder.withdraw(peer.routes.iter().copied(), log);
            peers.remove(&number);
            return Ok(());
        }
        let mut input = buffer.get(..count).unwrap_or_default();
        let mut joined = false;
        while let Some(frame) = peer.framer.next_frame(&mut input)? {
            match frame.kind() {
                MessageType::Open => joined = true,
                MessageType::Update => {
                    if let Message::Update(update) = decode(frame, &SESSION)?.message {
                        reflect(encoder, peer, &update, log)?;
                    }
                }
                _ => {}
            }
        }
        if joined {
            peer.up = true;
            self.write(number)?;
        }
        Ok(())
    }

    /// Gives a peer the rest of the log, as far as its socket takes it.
    fn write(&mut self, number: u64) -> Result<()> {
        let Some(peer) = self.peers.get_mut(&number) else { return Ok(()) };
        let full = loop {
            let data = match peer.control.is_empty() {
                false => peer.control.as_slice(),
                true if peer.up => self.log.get(peer.position..).unwrap_or_default(),
                true => break false,
            };
            if data.is_empty() {
                break false;
            }
            match peer.socket.write(data) {
                Ok(count) if peer.control.is_empty() => peer.position += count,
                Ok(count) => drop(peer.control.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break true,
                // The reader will notice that it has gone.
                Err(_) => break false,
            }
        };
        if full != peer.writing {
            peer.writing = full;
            let mut flags = EpollFlags::EPOLLIN;
            flags.set(EpollFlags::EPOLLOUT, full);
            self.epoll.modify(peer.socket.as_fd(), &mut EpollEvent::new(flags, number))?;
        }
        Ok(())
    }
}

fn reflect(encoder: &mut UpdateEncoder, peer: &mut Peer, update: &Update, log: &mut BytesMut) -> Result<()> {
    let Some(reach) = &update.reach else { return Ok(()) };
    let NextHop::V4(_) = reach.next_hop else { bail!("an IPv6 next hop") };
    let attributes = update.attributes.reflected(peer.address, REFLECTOR);
    encoder.announce(&attributes, &reach.next_hop, reach.nlri.iter().copied(), log).context("reflecting")?;
    peer.routes.extend(&reach.nlri);
    Ok(())
}
