//! Graceful restart as the helper (RFC 4724 section 4.2, RFC 8538 section 4, RFC 9494).

use super::negotiate::Session;
use crate::family::Family;
use crate::wire::{CeaseSubcode, Notification, NotificationCode};
use std::time::Duration;

/// How a session ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Loss<'a> {
    /// The connection failed.
    Connection,
    /// A NOTIFICATION was sent or received, or would have been sent (hold timer expiry).
    Notification(&'a Notification),
    /// The peer has started anew and opened another connection.
    Replaced,
}

/// How long the routes of a family outlive the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Until the peer must be back.
    pub(crate) restart: Duration,
    /// After that, long-lived stale (RFC 9494).
    pub(crate) long_lived: Option<Duration>,
}

/// Whether and how long to keep a family's routes; `None` drops them at once.
pub(crate) fn retention(session: &Session, family: Family, loss: Loss<'_>) -> Option<Retention> {
    let restart = session.restart.as_ref()?;
    let kept = match loss {
        Loss::Connection | Loss::Replaced => true,
        Loss::Notification(notification) => restart.notification && !notification.is_hard_reset(),
    };
    // The path is known to be gone, as far as either side's BFD can tell: traffic goes elsewhere at once if it can.
    let bfd_down = NotificationCode::Cease(CeaseSubcode::BfdDown);
    let path_failed = matches!(loss, Loss::Notification(notification) if notification.code == bfd_down);
    let restarts = restart.families[family.index()].is_some() && !path_failed;
    let long_lived = session.long_lived[family.index()];
    if !kept || !session.has(family) || (!restarts && long_lived.is_none()) {
        return None;
    }
    Some(Retention { restart: if restarts { restart.time } else { Duration::ZERO }, long_lived })
}

/// Whether stale routes of a family, or `long_lived` stale ones, survive the peer's new OPEN: it must still list the
/// family, with forwarding preserved, in the capability that keeps them (RFC 4724 section 4.2, RFC 9494 section 4.2).
pub(crate) fn survives_open(session: &Session, family: Family, long_lived: bool) -> bool {
    let restart = session.restart.as_ref().and_then(|restart| restart.families[family.index()]);
    let preserved = restart.filter(|_| !long_lived);
    session.has(family) && preserved.unwrap_or(session.long_lived_forwarding[family.index()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::negotiate::PeerRestart;
    use crate::wire::{FamilySet, Negotiated, PeerKind};
    use std::net::Ipv4Addr;

    fn session(notification: bool) -> Session {
        Session {
            negotiated: Negotiated { families: FamilySet::BOTH, ..Negotiated::minimal(PeerKind::Internal) },
            remote_id: Ipv4Addr::new(1, 1, 1, 1),
            hold: Duration::from_secs(90),
            keepalive: Duration::from_secs(30),
            route_refresh: true,
            enhanced_refresh: true,
            restart: Some(PeerRestart {
                restarted: false,
                notification,
                time: Duration::from_secs(120),
                families: [Some(true), None],
            }),
            long_lived: [None, None],
            long_lived_forwarding: [false, true],
        }
    }

    #[test]
    fn what_keeps_routes() {
        let reset = Notification::cease(CeaseSubcode::AdministrativeReset);
        let hard = reset.clone().into_hard_reset();
        for (n_bit, loss, kept) in [
            (false, Loss::Connection, true),
            (false, Loss::Notification(&reset), false),
            (true, Loss::Notification(&reset), true),
            (true, Loss::Notification(&hard), false),
            (true, Loss::Replaced, true),
        ] {
            let got = retention(&session(n_bit), Family::Ipv4, loss);
            assert_eq!(got.is_some(), kept, "{n_bit} {loss:?}");
            assert_eq!(retention(&session(n_bit), Family::Ipv6, loss), None, "family not listed");
        }
        let plain = Session { restart: None, ..session(true) };
        assert_eq!(retention(&plain, Family::Ipv4, Loss::Connection), None);
    }

    #[test]
    fn a_path_that_failed_has_no_restart_time() {
        let note = Notification::cease(CeaseSubcode::BfdDown);
        let loss = Loss::Notification(&note);
        assert_eq!(retention(&session(true), Family::Ipv4, loss), None);
        let long_lived = Some(Duration::from_secs(3600));
        let last_resort = |n_bit| Session { long_lived: [long_lived, None], ..session(n_bit) };
        let kept = Some(Retention { restart: Duration::ZERO, long_lived });
        assert_eq!(retention(&last_resort(true), Family::Ipv4, loss), kept);
        assert_eq!(retention(&last_resort(false), Family::Ipv4, loss), None);
    }

    #[test]
    fn forwarding_must_have_been_preserved() {
        for (family, long_lived, survives) in [
            (Family::Ipv4, false, true),
            (Family::Ipv4, true, false),
            (Family::Ipv6, false, true),
            (Family::Ipv6, true, true),
        ] {
            assert_eq!(survives_open(&session(true), family, long_lived), survives, "{family} {long_lived}");
        }
        let only = Negotiated::minimal(PeerKind::Internal);
        let ipv4 = [crate::wire::AfiSafi::Ipv4Unicast].into_iter().collect();
        let ipv4 = Session { negotiated: Negotiated { families: ipv4, ..only }, ..session(true) };
        assert!(!survives_open(&ipv4, Family::Ipv6, true));
    }
}
