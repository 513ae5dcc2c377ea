//! The finite state machine of RFC 4271 section 8.2.2 as a total function: no time, no IO, no peer.
//!
//! Two choices where the RFC leaves room or where following it to the letter harms: a connection that fails while
//! dialling leads to Active with the retry timer running instead of Idle (as everyone does), and a NOTIFICATION is
//! never answered with a NOTIFICATION. The optional DelayOpen and damping attributes are absent; the wait after
//! errors is the caller's (it starts the machine again).

use crate::status::PeerState as State;
use crate::wire::{CeaseSubcode, FsmSubcode, NotificationCode};
use smallvec::{SmallVec, smallvec};

/// Events of RFC 4271 section 8.1 (numbers in brackets) and RFC 9687.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Start and dial (1, 3, 13).
    Start,
    /// Start and wait for the peer to connect (4, 5).
    StartPassive,
    /// Stop with the notification that comes with the event (2, 8).
    Stop,
    /// (9)
    ConnectRetryExpired,
    /// (10)
    HoldExpired,
    /// (11)
    KeepaliveExpired,
    /// RFC 9687: the peer takes no bytes.
    SendHoldExpired,
    /// A connection is up, ours (16) or the peer's (17).
    TcpUp,
    /// (18)
    TcpFails,
    /// Valid OPEN (19).
    Open,
    /// Error in the header of a message (21), with its notification.
    HeaderError,
    /// Error in an OPEN (22), with its notification.
    OpenError,
    /// RFC 5882: BFD was up and says that the path is gone.
    BfdFailed,
    /// This connection lost the collision (23).
    CollisionDump,
    /// NOTIFICATION about the version (24).
    NotificationVersion,
    /// Any other NOTIFICATION (25).
    Notification,
    /// (26)
    Keepalive,
    /// Valid UPDATE (27); ROUTE-REFRESH counts as one.
    Update,
    /// Error in an UPDATE (28) or ROUTE-REFRESH, with its notification.
    UpdateError,
}

/// What the machine wants done, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Open a connection to the peer.
    Dial,
    /// Close the connection, if there is one.
    Close,
    /// Send OPEN.
    SendOpen,
    /// Send KEEPALIVE.
    SendKeepalive,
    /// Send this NOTIFICATION; `None` is the one that came with the event.
    Notify(Option<NotificationCode>),
    /// Start the connect retry timer with the current backoff.
    StartConnectRetry,
    /// Stop the connect retry timer.
    StopConnectRetry,
    /// ConnectRetryCounter = 0.
    ResetRetryCounter,
    /// ConnectRetryCounter += 1.
    CountRetry,
    /// Hold timer to the large value that covers the wait for OPEN (4 minutes).
    StartLargeHold,
    /// Hold timer to the negotiated value (off if that is 0).
    StartHold,
    /// Keepalive timer to the negotiated interval (off if that is 0).
    StartKeepalive,
    /// Stop hold, keepalive, send hold and connect retry.
    StopTimers,
    /// The session is up.
    SessionUp,
    /// The session, which was up, is down.
    SessionDown,
}

/// Usually at most six.
pub(crate) type Actions = SmallVec<[Action; 6]>;

/// One step. Total: every event is defined in every state.
pub(crate) fn step(state: State, event: Event) -> (State, Actions) {
    match state {
        State::Idle => idle(event),
        State::Connect => connect(event),
        State::Active => active(event),
        State::OpenSent => open_sent(event),
        State::OpenConfirm => open_confirm(event),
        State::Established => established(event),
    }
}

fn idle(event: Event) -> (State, Actions) {
    match event {
        Event::Start => (State::Connect, smallvec![Action::StartConnectRetry, Action::Dial]),
        Event::StartPassive => (State::Active, smallvec![]),
        // Connections are refused in Idle.
        Event::TcpUp => (State::Idle, smallvec![Action::Close]),
        _ => (State::Idle, smallvec![]),
    }
}

fn connect(event: Event) -> (State, Actions) {
    match event {
        Event::Start | Event::StartPassive => (State::Connect, smallvec![]),
        Event::ConnectRetryExpired => {
            (State::Connect, smallvec![Action::Close, Action::StartConnectRetry, Action::Dial])
        }
        Event::TcpUp => open_is_due(),
        Event::TcpFails => {
            (State::Active, smallvec![Action::Close, Action::CountRetry, Action::StartConnectRetry])
        }
        Event::Stop => stopped(None, false),
        Event::NotificationVersion => (State::Idle, smallvec![Action::StopTimers, Action::Close]),
        _ => failed(None, false),
    }
}

fn active(event: Event) -> (State, Actions) {
    match event {
        Event::Start | Event::StartPassive | Event::TcpFails => (State::Active, smallvec![]),
        Event::ConnectRetryExpired => (State::Connect, smallvec![Action::StartConnectRetry, Action::Dial]),
        Event::TcpUp => open_is_due(),
        Event::Stop => stopped(None, false),
        Event::NotificationVersion => (State::Idle, smallvec![Action::StopTimers, Action::Close]),
        _ => failed(None, false),
    }
}

fn open_is_due() -> (State, Actions) {
    (State::OpenSent, smallvec![Action::StopConnectRetry, Action::SendOpen, Action::StartLargeHold])
}

fn open_sent(event: Event) -> (State, Actions) {
    match event {
        Event::Start | Event::StartPassive => (State::OpenSent, smallvec![]),
        Event::TcpFails => (
            State::Active,
            smallvec![Action::StopTimers, Action::Close, Action::CountRetry, Action::StartConnectRetry],
        ),
        Event::Open => (
            State::OpenConfirm,
            smallvec![
                Action::StopConnectRetry,
                Action::SendKeepalive,
                Action::StartKeepalive,
                Action::StartHold
            ],
        ),
        Event::NotificationVersion => (State::Idle, smallvec![Action::StopTimers, Action::Close]),
        other => ended(other, FsmSubcode::UnexpectedInOpenSent, false),
    }
}

fn open_confirm(event: Event) -> (State, Actions) {
    match event {
        Event::Start | Event::StartPassive => (State::OpenConfirm, smallvec![]),
        Event::KeepaliveExpired => {
            (State::OpenConfirm, smallvec![Action::SendKeepalive, Action::StartKeepalive])
        }
        Event::Keepalive => {
            (State::Established, smallvec![Action::StartHold, Action::ResetRetryCounter, Action::SessionUp])
        }
        Event::TcpFails => failed(None, false),
        Event::NotificationVersion => (State::Idle, smallvec![Action::StopTimers, Action::Close]),
        other => ended(other, FsmSubcode::UnexpectedInOpenConfirm, false),
    }
}

fn established(event: Event) -> (State, Actions) {
    match event {
        Event::Start | Event::StartPassive => (State::Established, smallvec![]),
        Event::KeepaliveExpired => {
            (State::Established, smallvec![Action::SendKeepalive, Action::StartKeepalive])
        }
        Event::Keepalive | Event::Update => (State::Established, smallvec![Action::StartHold]),
        Event::TcpFails | Event::NotificationVersion => failed(None, true),
        other => ended(other, FsmSubcode::UnexpectedInEstablished, true),
    }
}

/// Events that end a connection on which OPEN was sent.
fn ended(event: Event, unexpected: FsmSubcode, up: bool) -> (State, Actions) {
    let notify = match event {
        Event::Stop => return stopped(Some(Action::Notify(None)), up),
        Event::HoldExpired => Some(Action::Notify(Some(NotificationCode::HoldTimerExpired))),
        Event::SendHoldExpired => Some(Action::Notify(Some(NotificationCode::SendHoldTimerExpired))),
        Event::HeaderError | Event::OpenError | Event::UpdateError => Some(Action::Notify(None)),
        Event::BfdFailed => Some(Action::Notify(Some(NotificationCode::Cease(CeaseSubcode::BfdDown)))),
        Event::CollisionDump => {
            Some(Action::Notify(Some(NotificationCode::Cease(CeaseSubcode::ConnectionCollision))))
        }
        Event::Notification => None,
        _ => Some(Action::Notify(Some(NotificationCode::Fsm(unexpected)))),
    };
    failed(notify, up)
}

fn stopped(notify: Option<Action>, up: bool) -> (State, Actions) {
    finish(notify, Action::ResetRetryCounter, up)
}

fn failed(notify: Option<Action>, up: bool) -> (State, Actions) {
    finish(notify, Action::CountRetry, up)
}

fn finish(notify: Option<Action>, counter: Action, up: bool) -> (State, Actions) {
    let mut actions: Actions = notify.into_iter().collect();
    actions.extend([Action::StopTimers, Action::Close, counter]);
    if up {
        actions.push(Action::SessionDown);
    }
    (State::Idle, actions)
}

#[cfg(test)]
#[path = "fsm_tests.rs"]
mod tests;
