//! How an attachment ends: DEL, GC, and what is collected.
//!
//! DEL is answered when it is in the journal. The interface goes afterwards, on a thread of its own; until then policy, route
//! and address are kept, and whoever wants one of these waits.

use margay_control::cni::{Attachment, GcRequest};
use margay_daemon::server::Failure;
use margay_ipam::Handle;

use super::{Answer, Node, reply};
use crate::attachments::{self, interface_name};
use crate::policy::Input;
use crate::removal::{Outcome, Remains};
use crate::writer::Write;

/// An attachment whose interface is being removed.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Who hears of the end. A committed attachment has none: the journal promises it.
    answers: Vec<Answer<()>>,
    /// The kernel refused: tried again.
    failed: bool,
}

impl Node {
    /// DEL, and what undoes a failed ADD. Nothing known of the attachment is a success, too, but of what is not in the
    /// journal there may be an interface: then the answer comes when there is none.
    pub(super) fn del(&mut self, handle: Handle, answer: Answer<()>) {
        let outcome = self.leave(&handle);
        match self.leaving.get_mut(&handle) {
            Some(leaving) if !self.addresses.attached().contains_key(&handle) => leaving.answers.push(answer),
            _ => reply(answer, outcome),
        }
    }

    /// Lets an attachment end, unless that has begun.
    pub(super) fn leave(&mut self, handle: &Handle) -> Result<(), Failure> {
        self.addresses.leave(handle).map_err(|error| Failure::try_later(error.to_string()))?;
        if !self.leaving.contains_key(handle) {
            self.leaving.insert(handle.clone(), Leaving::default());
            self.remove_interface(handle.clone());
        }
        Ok(())
    }

    /// The same where nobody waits for an answer.
    pub(super) fn leave_or_warn(&mut self, handle: &Handle) {
        if let Err(error) = self.leave(handle) {
            tracing::warn!("releasing {handle}: {}", error.message());
        }
    }

    fn remove_interface(&mut self, handle: Handle) {
        // What another plugin made it removes itself; under our name for it there is nothing.
        let attached = self.addresses.attached().get(&handle).filter(|attached| !attached.foreign);
        let interface = attached.map_or_else(|| interface_name(&handle), |one| one.interface.clone());
        let owned = self.addresses.allocator().owned(&handle).map(|owned| &owned.addresses);
        let addresses = self.addresses.attached().get(&handle).map(|attached| &attached.addresses).or(owned);
        let addresses = addresses.cloned().unwrap_or_default();
        self.removal.remove(Remains { handle, interface, addresses });
    }

    /// What the kernel refused to remove is tried again.
    pub(super) fn remove_again(&mut self) {
        let failed = self
            .leaving
            .iter_mut()
            .filter_map(|(handle, leaving)| std::mem::take(&mut leaving.failed).then(|| handle.clone()));
        failed.collect::<Vec<_>>().into_iter().for_each(|handle| self.remove_interface(handle));
    }

    /// Interfaces are gone: now everything else of their attachments goes.
    pub(super) async fn on_removed(&mut self, outcomes: Vec<Outcome>) {
        self.removal.answered(outcomes.len());
        for (handle, outcome) in outcomes {
            let ended = match outcome {
                Ok(()) => {
                    self.release(&handle).await;
                    Ok(())
                }
                // An interface that is still there may still be in use: its address must not be given to anyone else.
                Err(error) => Err(format!("cannot remove {handle}: {error}")),
            };
            let Some(leaving) = self.leaving.get_mut(&handle) else { continue };
            leaving.failed = ended.is_err();
            for answer in std::mem::take(&mut leaving.answers) {
                reply(answer, ended.clone().map_err(Failure::try_later));
            }
            match ended {
                Ok(()) => drop(self.leaving.remove(&handle)),
                Err(problem) => tracing::warn!("{problem}; trying again"),
            }
        }
        self.update_routes();
        self.settle();
    }

    /// Everything a handle has is free.
    async fn release(&mut self, handle: &Handle) {
        self.reserved.remove(handle);
        let owned = self.addresses.allocator().owned(handle);
        let addresses = owned.map(|owned| owned.addresses.clone()).unwrap_or_default();
        if let Some(attached) = self.addresses.release(handle) {
            let key = attachments::endpoint_key(&self.config.node, &attached);
            // The pod may be there again, with another container.
            let again =
                |other: &&attachments::Attached| attachments::endpoint_key(&self.config.node, other) == key;
            match self.addresses.attached().values().find(again).map(|other| self.endpoint(other)) {
                // Whichever of the two was told last: from now on it is this one.
                Some(endpoint) => {
                    self.tell_engine(Input::SetLocal(Box::new(endpoint.clone()), None)).await;
                    self.writer.push(key, Write::Apply(Box::new(endpoint.into())));
                }
                None => {
                    self.tell_engine(Input::RemoveLocal(key.clone())).await;
                    self.writer.push(key, Write::Delete);
                }
            }
            for address in &attached.addresses {
                self.router.remove_pod(*address, &attached.interface);
            }
            if addresses.is_empty() {
                self.originate().await;
            }
        }
        self.mirror_blocks(&addresses);
    }

    /// Answers when every interface is gone that is being removed now.
    pub(super) fn when_settled(&mut self, answer: Answer<()>) {
        match self.removal.horizon() {
            Some(horizon) => self.settling.push((horizon, answer)),
            None => reply(answer, Ok(())),
        }
    }

    /// Those who wait for interfaces to be gone.
    fn settle(&mut self) {
        let removal = &self.removal;
        let settled = self.settling.extract_if(.., |(horizon, _)| removal.has_reached(*horizon));
        settled.for_each(|(_, answer)| reply(answer, Ok(())));
        let ready = |waiting: &mut super::Waiting| {
            waiting.horizon.is_some_and(|horizon| removal.has_reached(horizon))
        };
        let ready: Vec<_> = self.deferred.extract_if(.., ready).collect();
        ready.into_iter().for_each(|waiting| self.give(waiting, None));
    }

    /// GC: what the runtime does not know any more ends, as much of it as can.
    pub(super) fn collect(&mut self, request: &GcRequest) -> Result<(), Failure> {
        let valid = |known: &Attachment| {
            let same =
                |other: &Attachment| other.container_id == known.container_id && other.ifname == known.ifname;
            request.valid.iter().any(same)
        };
        let attached = self.addresses.attached().iter();
        let of_network = attached.filter(|(_, attached)| attached.attachment.network == request.network);
        let gone = of_network.filter(|(_, attached)| !valid(&attached.attachment)).map(|(handle, _)| handle);
        // Of an ADD that ended between its phases only the handle is left.
        let reserved = self.addresses.reserved().filter(|(handle, _)| {
            handle.attachment().is_some_and(|[network, container_id, ifname]| {
                network == request.network && !valid(&Attachment { container_id, ifname, network })
            })
        });
        let gone: Vec<Handle> = gone.chain(reserved.map(|(handle, _)| handle)).cloned().collect();
        let mut outcome = Ok(());
        for handle in gone {
            tracing::info!("GC: releasing {handle}");
            outcome = outcome.and(self.leave(&handle));
        }
        outcome
    }
}
