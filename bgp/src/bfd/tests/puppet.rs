//! One endpoint whose peer is played packet by packet.

use super::*;

/// A peer played by the test.
struct Puppet {
    bfd: Bfd,
    now: Time,
    own: u32,
}

impl Puppet {
    fn up() -> Self {
        let mut bfd = Bfd::new(9);
        bfd.handle(Time::ZERO, Input::Set(address(1), Some(config(300, 300, 3))));
        let mut puppet = Self { bfd, now: Time::ZERO, own: 0 };
        puppet.own = puppet.sent().last().unwrap().own;
        puppet.say(Packet { state: State::Init, ..puppet.packet() });
        assert_eq!(puppet.status().state, State::Up);
        puppet.say(Packet { last: true, ..puppet.packet() });
        puppet
    }

    fn packet(&self) -> Packet {
        Packet {
            state: State::Up,
            diagnostic: Diagnostic::NONE,
            poll: false,
            last: false,
            independent: false,
            authenticated: false,
            demand: false,
            multiplier: 3,
            own: 77,
            your: self.own,
            min_tx: 300_000,
            min_rx: 300_000,
            min_echo_rx: 0,
        }
    }

    fn say(&mut self, packet: Packet) -> Vec<Packet> {
        self.octets(address(1), false, &packet.encode())
    }

    fn octets(&mut self, from: IpAddr, multihop: bool, payload: &[u8]) -> Vec<Packet> {
        self.bfd.handle(self.now, Input::Received { from, multihop, payload });
        self.sent()
    }

    fn sent(&mut self) -> Vec<Packet> {
        let mut out = Vec::new();
        while let Some(output) = self.bfd.poll_output() {
            if let Output::Send { packet, .. } = output {
                out.push(Packet::decode(&packet).unwrap());
            }
        }
        out
    }

    fn status(&self) -> SessionStatus {
        self.bfd.status(address(1)).unwrap()
    }

    /// Packets sent while the peer says `packet` every 100 ms.
    fn pass(&mut self, times: u32, packet: Packet) -> Vec<Packet> {
        let mut out = Vec::new();
        for _ in 0..times {
            self.now = self.now + 100 * MS;
            self.bfd.handle(self.now, Input::Tick);
            out.extend(self.sent());
            out.extend(self.say(packet));
        }
        out
    }
}

#[test]
fn a_poll_is_answered_at_once() {
    let mut puppet = Puppet::up();
    let answers = puppet.say(Packet { poll: true, ..puppet.packet() });
    assert_eq!(answers.len(), 1);
    assert!(answers[0].last && !answers[0].poll);
    assert_eq!((answers[0].own, answers[0].your), (puppet.own, 77));
}

#[test]
fn a_peer_in_demand_mode_gets_answers_and_nothing_else() {
    let mut puppet = Puppet::up();
    let demand = Packet { demand: true, ..puppet.packet() };
    puppet.say(demand);
    assert_eq!(puppet.pass(50, demand), []);
    assert_eq!(puppet.say(Packet { poll: true, ..demand }).len(), 1);
    // Our own question is asked all the same.
    puppet.bfd.handle(puppet.now, Input::Set(address(1), Some(config(500, 300, 3))));
    assert!(puppet.pass(20, demand).iter().all(|packet| packet.poll));
    puppet.say(Packet { last: true, ..demand });
    assert_eq!(puppet.pass(50, demand), []);
    assert!(!puppet.pass(20, Packet { demand: false, ..demand }).is_empty());
    assert_eq!(puppet.status().state, State::Up);
}

#[test]
fn a_peer_that_wants_no_packets_gets_none_and_is_still_watched() {
    let mut puppet = Puppet::up();
    let silent = Packet { min_rx: 0, ..puppet.packet() };
    puppet.say(silent);
    assert_eq!(puppet.pass(50, silent), []);
    assert_eq!(puppet.status().state, State::Up);
    puppet.now = puppet.now + Duration::from_secs(1);
    puppet.bfd.handle(puppet.now, Input::Tick);
    assert_eq!(puppet.status().state, State::Down);
    assert!(!puppet.sent().is_empty(), "what it wanted is forgotten with it");
}

#[test]
fn packets_of_others_do_nothing() {
    let mut puppet = Puppet::up();
    let before = format!("{:?}", puppet.bfd);
    let down = Packet { state: State::Down, ..puppet.packet() };
    assert_eq!(puppet.octets(address(2), false, &down.encode()), [], "another address");
    assert_eq!(puppet.octets(address(1), true, &down.encode()), [], "another port");
    assert_eq!(puppet.say(Packet { your: down.your ^ 1, ..down }), [], "another session");
    let mut authenticated = [&down.encode()[..], &[1, 4, 0, 0]].concat();
    authenticated[1] |= 0x04;
    authenticated[3] = 28;
    assert!(Packet::decode(&authenticated).is_ok());
    assert_eq!(puppet.octets(address(1), false, &authenticated), [], "authentication is not in use");
    assert_eq!(format!("{:?}", puppet.bfd), before);
    assert_eq!(puppet.say(down).len(), 1);
    assert_eq!(puppet.status().state, State::Down);
}

proptest! {
    /// A packet with one octet changed does nothing at all, unless it is valid and addressed as before.
    #[test]
    fn a_mutated_packet_counts_only_if_it_is_valid(at in 0usize..24, octet in any::<u8>(), cut in 0usize..=24) {
        let mut puppet = Puppet::up();
        let good = puppet.packet();
        let mut octets = good.encode();
        octets[at] = octet;
        let payload = &octets[..cut.max(at)];
        let before = format!("{:?}", puppet.bfd);
        puppet.octets(address(1), false, payload);
        let counts = Packet::decode(payload).is_ok_and(|packet| {
            (packet.your == good.your || packet.your == 0) && !packet.authenticated
        });
        if !counts {
            prop_assert_eq!(format!("{:?}", puppet.bfd), before);
        }
    }
}
