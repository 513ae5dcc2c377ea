use super::*;

const STATES: [State; 6] =
    [State::Idle, State::Connect, State::Active, State::OpenSent, State::OpenConfirm, State::Established];
const EVENTS: [Event; 18] = [
    Event::Start,
    Event::StartPassive,
    Event::Stop,
    Event::ConnectRetryExpired,
    Event::HoldExpired,
    Event::KeepaliveExpired,
    Event::SendHoldExpired,
    Event::TcpUp,
    Event::TcpFails,
    Event::Open,
    Event::HeaderError,
    Event::OpenError,
    Event::CollisionDump,
    Event::NotificationVersion,
    Event::Notification,
    Event::Keepalive,
    Event::Update,
    Event::UpdateError,
];

/// Next states in the order of `EVENTS`: I C A S(OpenSent) F(OpenConfirm) E.
const NEXT: [(State, &str); 6] = [
    (State::Idle, "CAIIIIIIIIIIIIIIII"),
    (State::Connect, "CCICIIISAIIIIIIIII"),
    (State::Active, "AAICIIISAIIIIIIIII"),
    (State::OpenSent, "SSIIIIIIAFIIIIIIII"),
    (State::OpenConfirm, "FFIIIFIIIIIIIIIEII"),
    (State::Established, "EEIIIEIIIIIIIIIEEI"),
];

fn letter(state: State) -> char {
    match state {
        State::Idle => 'I',
        State::Connect => 'C',
        State::Active => 'A',
        State::OpenSent => 'S',
        State::OpenConfirm => 'F',
        State::Established => 'E',
    }
}

#[test]
fn next_states_follow_the_table() {
    for (state, row) in NEXT {
        let got: String = EVENTS.iter().map(|event| letter(step(state, *event).0)).collect();
        assert_eq!(got, row, "{state:?}");
    }
}

#[test]
fn leaving_established_always_reports_the_session_down_and_closes() {
    for event in EVENTS {
        let (next, actions) = step(State::Established, event);
        assert_eq!(next != State::Established, actions.contains(&Action::SessionDown), "{event:?}");
        assert_eq!(next != State::Established, actions.contains(&Action::Close), "{event:?}");
    }
}

#[test]
fn session_comes_up_in_one_place_only() {
    for state in STATES {
        for event in EVENTS {
            let (next, actions) = step(state, event);
            let up = state == State::OpenConfirm && event == Event::Keepalive;
            assert_eq!(actions.contains(&Action::SessionUp), up, "{state:?} {event:?}");
            assert_eq!(up, state != State::Established && next == State::Established);
        }
    }
}

#[test]
fn a_notification_is_never_answered_with_one() {
    for state in STATES {
        for event in [Event::Notification, Event::NotificationVersion] {
            let (_, actions) = step(state, event);
            assert!(!actions.iter().any(|action| matches!(action, Action::Notify(_))), "{state:?}");
        }
    }
}

#[test]
fn idle_holds_no_connection_and_no_timer() {
    for state in [State::Connect, State::Active, State::OpenSent, State::OpenConfirm, State::Established] {
        for event in EVENTS {
            let (next, actions) = step(state, event);
            if next == State::Idle {
                assert!(actions.contains(&Action::StopTimers), "{state:?} {event:?}");
                assert!(actions.contains(&Action::Close), "{state:?} {event:?}");
            }
        }
    }
}

#[test]
fn unexpected_messages_carry_the_subcodes_of_rfc_6608() {
    for (state, event, subcode) in [
        (State::OpenSent, Event::Keepalive, FsmSubcode::UnexpectedInOpenSent),
        (State::OpenSent, Event::Update, FsmSubcode::UnexpectedInOpenSent),
        (State::OpenConfirm, Event::Open, FsmSubcode::UnexpectedInOpenConfirm),
        (State::OpenConfirm, Event::Update, FsmSubcode::UnexpectedInOpenConfirm),
        (State::Established, Event::Open, FsmSubcode::UnexpectedInEstablished),
    ] {
        let (_, actions) = step(state, event);
        assert_eq!(actions.first(), Some(&Action::Notify(Some(NotificationCode::Fsm(subcode)))));
    }
}
