//! The node's addresses and attachments, in memory and in the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use margay_api::IpamBlock;
use margay_control::cni::Attachment;
use margay_ipam::{
    Allocator, AssignError, Attributes, Handle, LendQuery, Lending, Owned, Record, RecordError, Request,
    Seconds,
};

use crate::attachments::Attached;
use crate::journal::{AttachmentEntry, Entry, Journal};

/// Why nothing was assigned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddressError {
    /// No free address, or one was asked for that cannot be had.
    #[error(transparent)]
    Assign(#[from] AssignError),
    /// A block that does not fit.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The journal cannot be written: what is not written down must not be given out.
    #[error("cannot write the address journal: {0}; make room on the disk that holds the agent's stateDir")]
    Journal(#[from] io::Error),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Addresses {
    allocator: Allocator,
    journal: Journal,
    attached: BTreeMap<Handle, Attached>,
}

/// Handle of an attachment's addresses.
pub(crate) fn handle_of(attachment: &Attachment) -> Handle {
    Handle::pod(&attachment.network, &attachment.container_id, &attachment.ifname)
}

impl Addresses {
    /// Opens the journal in `folder` and takes up where it ends.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let (journal, entries) = Journal::open(folder)?;
        let mut addresses = Self { allocator: Allocator::default(), journal, attached: BTreeMap::new() };
        for entry in entries {
            match entry {
                Entry::Address(record) => {
                    if let Err(error) = addresses.allocator.apply(&record) {
                        tracing::warn!("journal: {error}; the line is left out");
                    }
                }
                Entry::Attachment(AttachmentEntry::Attach(attached)) => {
                    addresses.attached.insert(handle_of(&attached.attachment), *attached);
                }
                Entry::Attachment(AttachmentEntry::Detach { handle }) => {
                    addresses.attached.remove(&Handle::from_text(handle));
                }
            }
        }
        addresses.own_attached();
        if !addresses.journal.is_damaged() {
            addresses.compact();
        }
        Ok(addresses)
    }

    /// Attachments have their addresses, whatever became of the line that says so.
    pub(crate) fn own_attached(&mut self) {
        let attached = self.attached.iter().filter(|(_, attached)| !attached.foreign);
        let records: Vec<Record> = attached
            .filter_map(|(handle, attached)| {
                let unowned = attached.addresses.iter().copied().filter(|address| {
                    let is_held = self.allocator.blocks().any(|block| block.contains(address));
                    is_held && self.allocator.owner_of(*address).is_none()
                });
                let addresses: Vec<IpAddr> = unowned.collect();
                let attributes = Attributes {
                    pod: Some(attached.pod.clone()),
                    namespace: Some(attached.namespace.clone()),
                    interface: Some(attached.attachment.ifname.clone()),
                    ..Attributes::default()
                };
                let handle = handle.clone();
                (!addresses.is_empty()).then_some(Record::Assign { handle, addresses, attributes })
            })
            .collect();
        records.into_iter().for_each(|record| self.apply(record));
    }

    /// What does not fit is left out and logged.
    fn apply(&mut self, record: Record) {
        match self.allocator.apply(&record) {
            Ok(()) => self.journal.note(Entry::Address(record)),
            Err(error) => tracing::warn!("taking up addresses of this node: {error}"),
        }
    }

    /// A journal of which a line is lost gets back what `blocks`, the datastore's, know: what is in use there and free here counts as
    /// used. What was released meanwhile has no interface, and is collected like anything else that has none.
    pub(crate) fn mend(&mut self, blocks: &[(&IpamBlock, u64)]) {
        if !self.journal.is_damaged() {
            return;
        }
        let held: BTreeSet<IpNet> = self.allocator.blocks().collect();
        let held: Vec<_> =
            blocks.iter().filter(|(block, _)| held.contains(&block.spec.cidr)).copied().collect();
        for record in margay_ipam::adopt(&held) {
            if let Record::Assign { handle, mut addresses, attributes } = record {
                addresses.retain(|address| self.allocator.owner_of(*address).is_none());
                if !addresses.is_empty() {
                    tracing::warn!(%handle, ?addresses, "the journal has lost this; the datastore knows it");
                    self.apply(Record::Assign { handle, addresses, attributes });
                }
            }
        }
        self.compact();
    }

    /// The addresses as they are.
    pub(crate) fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    /// Every attachment that was committed.
    pub(crate) fn attached(&self) -> &BTreeMap<Handle, Attached> {
        &self.attached
    }

    /// Who has addresses between the two phases of an ADD, or never got to the second. Containers of other programs, taken over
    /// with a block, say nothing of an interface.
    pub(crate) fn reserved(&self) -> impl Iterator<Item = (&Handle, &Owned)> {
        let owners = self.allocator.owners();
        owners.filter(|(handle, owned)| {
            owned.attributes.interface.is_some() && !self.attached.contains_key(handle)
        })
    }

    /// Gives addresses to a handle; asked again, the same ones.
    pub(crate) fn assign(&mut self, request: &Request<'_>) -> Result<Vec<IpAddr>, AddressError> {
        let assigned = self.allocator.assign(request)?;
        if let Some(record) = assigned.record
            && let Err(error) = self.journal.append(&Entry::Address(record.clone()))
        {
            self.allocator.undo(&record, request.now);
            return Err(error.into());
        }
        Ok(assigned.addresses)
    }

    /// Writes down that an interface is to be live.
    pub(crate) fn attach(&mut self, attached: Attached) -> Result<(), AddressError> {
        self.journal.append(&Entry::Attachment(AttachmentEntry::Attach(Box::new(attached.clone()))))?;
        self.attached.insert(handle_of(&attached.attachment), attached);
        Ok(())
    }

    /// Writes down that an attachment ends: after a restart, too, its interface is removed.
    pub(crate) fn leave(&mut self, handle: &Handle) -> Result<(), AddressError> {
        match self.attached.get(handle) {
            Some(attached) if !attached.leaving => {
                self.attach(Attached { leaving: true, ..attached.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Lends addresses to other nodes and takes them back; nothing of it may be told before it is written down.
    pub(crate) fn lend(&mut self, query: &LendQuery<'_>) -> Result<Lending, AddressError> {
        let lending = self.allocator.lend(query);
        for record in &lending.records {
            self.journal.note(Entry::Address(record.clone()));
        }
        self.journal.catch_up()?;
        Ok(lending)
    }

    /// Frees everything a handle has. Returns its attachment, if it was committed.
    pub(crate) fn release(&mut self, handle: &Handle) -> Option<Attached> {
        let attached = self.attached.remove(handle);
        if attached.is_some() {
            let handle = handle.as_str().to_owned();
            self.journal.note(Entry::Attachment(AttachmentEntry::Detach { handle }));
        }
        if let Some(record) = self.allocator.release(handle, now()) {
            self.journal.note(Entry::Address(record));
        }
        // Each attachment has two lines at least: only beyond that it is worth counting what is needed.
        if !self.journal.is_damaged()
            && self.journal.is_long(2 * self.attached.len())
            && self.journal.is_long(self.allocator.compact().len() + self.attached.len())
        {
            self.compact();
        }
        attached
    }

    /// Takes a block that the datastore says is ours.
    pub(crate) fn add_block(&mut self, cidr: IpNet, fence: u64) -> Result<(), AddressError> {
        let record = self.allocator.add_block(cidr, fence)?;
        self.journal.note(Entry::Address(record));
        Ok(())
    }

    /// Forgets an empty block, before the datastore does.
    pub(crate) fn drop_block(&mut self, cidr: IpNet) -> Result<(), AddressError> {
        let record = self.allocator.drop_block(cidr)?;
        self.journal.note(Entry::Address(record));
        self.journal.catch_up().map_err(AddressError::from)
    }

    /// Takes up blocks of ours that the journal does not know: the state folder was lost. What does not fit is left
    /// out and logged.
    pub(crate) fn adopt(&mut self, blocks: &[(&IpamBlock, u64)]) {
        margay_ipam::adopt(blocks).into_iter().for_each(|record| self.apply(record));
        self.own_attached();
    }

    /// Stops assignments from a block that the datastore says is not ours.
    pub(crate) fn freeze(&mut self, cidr: &IpNet, frozen: bool) {
        self.allocator.freeze(cidr, frozen);
    }

    /// Shortens the journal; a long one does as well.
    fn compact(&mut self) {
        let records = self.allocator.compact().into_iter().map(Entry::Address);
        let attached =
            self.attached.values().cloned().map(Box::new).map(AttachmentEntry::Attach).map(Entry::Attachment);
        let entries: Vec<Entry> = records.chain(attached).collect();
        if let Err(error) = self.journal.rewrite(&entries) {
            tracing::warn!("cannot shorten the address journal: {error}");
        }
    }
}

/// Wall-clock seconds, for the rest of released addresses.
pub(crate) fn now() -> Seconds {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use margay_ipam::{Family, RangeSet};

    use super::*;

    fn attachment(id: &str) -> Attachment {
        Attachment { container_id: id.into(), ifname: "eth0".into(), network: "margay".into() }
    }

    fn assign(addresses: &mut Addresses, id: &str) -> Vec<IpAddr> {
        try_assign(addresses, id, &[]).unwrap()
    }

    fn try_assign(
        addresses: &mut Addresses,
        id: &str,
        wanted: &[IpAddr],
    ) -> Result<Vec<IpAddr>, AddressError> {
        let request = Request {
            handle: handle_of(&attachment(id)),
            attributes: Attributes { interface: Some("eth0".into()), ..Attributes::default() },
            families: &[Family::V4],
            addresses: wanted,
            pools: &["10.65.0.0/16".parse().unwrap()],
            reserved: &RangeSet::new([]),
            now: now(),
            cooldown: 0,
        };
        addresses.assign(&request)
    }

    fn attach(addresses: &mut Addresses, id: &str, of: &[IpAddr]) {
        let attached = Attached {
            attachment: attachment(id),
            namespace: "default".into(),
            pod: id.into(),
            labels: BTreeMap::new(),
            addresses: of.to_vec(),
            interface: format!("mgy{id}"),
            mac: "ee:ee:ee:ee:ee:ee".into(),
            netns: String::new(),
            leaving: false,
            foreign: false,
        };
        addresses.attach(attached).unwrap();
    }

    #[test]
    fn a_restart_forgets_nothing_and_a_torn_line_costs_only_itself() {
        let folder = std::env::temp_dir().join(format!("margay-journal-{}", std::process::id()));
        let mut first = Addresses::open(&folder).unwrap();
        first.add_block("10.65.1.0/24".parse().unwrap(), 7).unwrap();
        let a = assign(&mut first, "a");
        let b = assign(&mut first, "b");
        assert_ne!(a, b);
        attach(&mut first, "a", &a);
        first.release(&handle_of(&attachment("b")));
        drop(first);
        let path = folder.join("journal.jsonl");
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"op\":\"assign\",\"hand");
        std::fs::write(&path, text).unwrap();

        let mut second = Addresses::open(&folder).unwrap();
        assert_eq!(second.attached().len(), 1);
        assert_eq!(assign(&mut second, "a"), a, "the same handle keeps its address");
        let c = assign(&mut second, "c");
        assert!(c != a && c != b, "a released address rests behind the unused ones");
        std::fs::remove_dir_all(folder).unwrap();
    }

    /// A bad sector, or a field that only the next version knows.
    #[test]
    fn a_whole_line_that_cannot_be_read_frees_no_address() {
        let folder = std::env::temp_dir().join(format!("margay-journal-damage-{}", std::process::id()));
        let block: IpNet = "10.65.1.0/24".parse().unwrap();
        let mut first = Addresses::open(&folder).unwrap();
        first.add_block(block, 7).unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|id| assign(&mut first, id));
        attach(&mut first, "b", &b);
        let mirror = first.allocator().to_block_resource(&block, "n1", None).unwrap();
        first.release(&handle_of(&attachment("c")));
        drop(first);
        let path = folder.join("journal.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        let spoilt = |line: &str| match line {
            line if line.contains("assign") && !line.contains(".c.") => "?".repeat(line.len()),
            line => line.to_owned(),
        };
        let text: String = text.lines().map(|line| spoilt(line) + "\n").collect();
        std::fs::write(&path, text).unwrap();
        // However often it starts before it hears of the datastore.
        for _ in 0..2 {
            let addresses = Addresses::open(&folder).unwrap();
            assert_eq!(addresses.allocator().owner_of(b[0]), Some(&handle_of(&attachment("b"))), "attached");
        }
        let mut second = Addresses::open(&folder).unwrap();
        second.mend(&[(&mirror, 8)]);
        drop(second);
        let mut third = Addresses::open(&folder).unwrap();
        assert_eq!(third.allocator().owner_of(a[0]), Some(&handle_of(&attachment("a"))));
        let d = assign(&mut third, "d");
        assert!(![&a, &b, &c].contains(&&d), "{d:?}");
        third.mend(&[]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_no_commit_followed_is_known() {
        let folder = std::env::temp_dir().join(format!("margay-journal-reserved-{}", std::process::id()));
        let mut addresses = Addresses::open(&folder).unwrap();
        addresses.add_block("10.65.1.0/24".parse().unwrap(), 7).unwrap();
        let a = assign(&mut addresses, "a");
        assign(&mut addresses, "b");
        attach(&mut addresses, "a", &a);
        let reserved: Vec<&Handle> = addresses.reserved().map(|(handle, _)| handle).collect();
        assert_eq!(reserved, [&handle_of(&attachment("b"))]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_disk_that_was_full_neither_mixes_lines_nor_changes_their_order() {
        let folder = std::env::temp_dir().join(format!("margay-journal-full-{}", std::process::id()));
        let mut first = Addresses::open(&folder).unwrap();
        first.add_block("10.65.1.0/24".parse().unwrap(), 7).unwrap();
        let a = assign(&mut first, "a");
        attach(&mut first, "a", &a);
        let file = first.journal.swap_file(std::fs::File::options().append(true).open("/dev/full").unwrap());
        assert!(matches!(try_assign(&mut first, "b", &[]), Err(AddressError::Journal(_))));
        // Its pod is gone, whatever can be written.
        assert!(first.release(&handle_of(&attachment("a"))).is_some());
        assert!(matches!(try_assign(&mut first, "b", &a), Err(AddressError::Journal(_))));
        // What fits is written.
        let path = folder.join("journal.jsonl");
        let mut torn = std::fs::File::options().append(true).open(path).unwrap();
        io::Write::write_all(&mut torn, b"{\"op\":\"assign\",\"hand").unwrap();
        first.journal.swap_file(file);
        assert_eq!(try_assign(&mut first, "b", &a).unwrap(), a);
        drop(first);
        let second = Addresses::open(&folder).unwrap();
        assert!(second.attached().is_empty());
        assert_eq!(second.allocator().owner_of(a[0]), Some(&handle_of(&attachment("b"))));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
