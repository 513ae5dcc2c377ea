//! The thread that follows the node's own interfaces and their addresses, for the policy engine.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::time::Duration;

use felix_rs::calc::Interfaces;
use margay_netlink::monitor::{Event, Monitor};
use margay_netlink::{Netlink, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::policy::{Engine, Input};

/// How the interfaces of our own pods begin: they have no addresses, and there are many.
const OWN_PODS: &str = "mgy";

/// At least so long between two looks, however often addresses change.
const PAUSE: Duration = Duration::from_millis(100);

/// When the kernel does not answer it is asked anew after this time.
const RETRY: Duration = Duration::from_secs(10);

/// What is followed.
#[derive(Debug)]
pub(crate) struct Watch {
    netlink: Netlink,
    monitor: Monitor,
}

impl Watch {
    /// Follows from now on; what is there now.
    ///
    /// # Errors
    /// Netlink cannot be opened.
    pub(crate) fn begin() -> Result<(Self, Interfaces)> {
        // Notices come from before the first look.
        let mut watch = Self { monitor: Monitor::addresses()?, netlink: Netlink::open()? };
        let interfaces = watch.look()?;
        Ok((watch, interfaces))
    }

    fn look(&mut self) -> Result<Interfaces> {
        let links = self.netlink.links()?.into_iter().filter(|link| !link.name.starts_with(OWN_PODS));
        let names: BTreeMap<u32, String> = links.map(|link| (link.index, link.name)).collect();
        let mut interfaces: Interfaces =
            names.values().map(|name| (name.as_str().into(), Default::default())).collect();
        for address in self.netlink.addresses(None)? {
            if let Some(own) = names.get(&address.index).and_then(|name| interfaces.get_mut(name.as_str())) {
                own.insert(address.net.addr());
            }
        }
        Ok(interfaces)
    }

    /// Tells the engine of every change until it is gone.
    pub(crate) fn run(mut self, mut told: Interfaces, engine: &tokio::sync::mpsc::WeakSender<Input>) {
        loop {
            let mut changed = false;
            let mut fds = [PollFd::new(self.monitor.as_fd(), PollFlags::POLLIN)];
            let _woken = poll(&mut fds, PollTimeout::NONE);
            let read = self.monitor.read(|event| {
                changed |= match event {
                    Event::LinkSet(link) | Event::LinkGone(link) => !link.name.starts_with(OWN_PODS),
                    _ => true,
                };
            });
            let looked = read.and_then(|()| if changed { self.look().map(Some) } else { Ok(None) });
            let Some(engine) = engine.upgrade() else { return };
            match looked {
                Ok(Some(interfaces)) if interfaces != told => {
                    told.clone_from(&interfaces);
                    if tell(&engine, interfaces).is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!("policy does not follow the node's addresses: {error}");
                    std::thread::sleep(RETRY);
                    if let Ok((anew, interfaces)) = Self::begin() {
                        self = anew;
                        told.clone_from(&interfaces);
                        if tell(&engine, interfaces).is_err() {
                            return;
                        }
                    }
                }
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// Errors: the policy thread is gone.
fn tell(engine: &Engine, interfaces: Interfaces) -> std::result::Result<(), ()> {
    engine.blocking_send(Input::Interfaces(interfaces)).map_err(drop)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::IpAddr;
    use std::time::Instant;

    use margay_netlink::{Address, AddressOptions, Netns};
    use tokio::sync::mpsc;

    use super::*;

    /// In a namespace of its own: what is there, what comes, what goes. Interfaces of pods are not told of.
    #[test]
    fn the_engine_hears_of_addresses() {
        let netns = match Netns::new() {
            Err(error) if error.is_not_permitted() && std::env::var_os("TESTS_REQUIRE_ALL").is_none() => {
                eprintln!("skipped: {error}");
                return;
            }
            made => made.unwrap(),
        };
        let (engine, mut inputs) = mpsc::channel(64);
        let weak = engine.downgrade();
        let started = netns.run(move || {
            let (watch, interfaces) = Watch::begin().unwrap();
            let told = interfaces.clone();
            // A thread begins in the namespace of the one that makes it.
            std::thread::spawn(move || watch.run(told, &weak));
            interfaces
        });
        assert!(started.unwrap().contains_key("lo"));
        let mut netlink = Netlink::open_in(&netns).unwrap();
        let mut until = |wanted: &[(&str, &[&str])]| {
            let wanted = wanted.iter().map(|(name, own)| {
                let own: BTreeSet<IpAddr> = own.iter().map(|text| text.parse().unwrap()).collect();
                ((*name).into(), own)
            });
            let (wanted, deadline): (Interfaces, _) =
                (wanted.collect(), Instant::now() + Duration::from_secs(60));
            loop {
                assert!(Instant::now() < deadline, "never told of {wanted:?}");
                match inputs.try_recv() {
                    Ok(Input::Interfaces(told)) if told == wanted => return,
                    Ok(_) => {}
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        };
        netlink.add_bridge("mgypod").unwrap();
        netlink.add_bridge("up0").unwrap();
        until(&[("lo", &[]), ("up0", &[])]);
        let index = netlink.link_index("up0").unwrap();
        for net in ["192.0.2.1/24", "2001:db8::1/64"] {
            netlink
                .add_address(&Address { index, net: net.parse().unwrap() }, AddressOptions::default())
                .unwrap();
        }
        until(&[("lo", &[]), ("up0", &["192.0.2.1", "2001:db8::1"])]);
        netlink.delete_link(index).unwrap();
        until(&[("lo", &[])]);
    }
}
