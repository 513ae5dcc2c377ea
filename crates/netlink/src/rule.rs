//! Policy routing: rules that say which table a packet is looked up in.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use crate::error::Result;
use crate::handle::{Netlink, parse_or_skip};
use crate::wire::Request;

const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;

/// `ip rule add not fwmark MARK/MARK lookup TABLE pref PRIORITY`: packets without a mark are looked up in a table first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnmarkedRule {
    /// IPv6; else IPv4.
    pub v6: bool,
    /// Bits of the mark; a packet with all of them is not looked up.
    pub mark: u32,
    /// The table.
    pub table: u32,
    /// Lower ones come first; 32766 is the main table's.
    pub priority: u32,
    /// Who made it (`FRA_PROTOCOL`).
    pub protocol: u8,
}

impl UnmarkedRule {
    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = family(self.v6);
        message.header.action = RuleAction::ToTable;
        message.header.flags = RuleFlags::Invert;
        message.attributes = vec![
            RuleAttribute::Priority(self.priority),
            RuleAttribute::FwMark(self.mark),
            RuleAttribute::FwMask(self.mark),
            RuleAttribute::Table(self.table),
            RuleAttribute::Protocol(self.protocol.into()),
        ];
        message
    }

    /// Absent: another kind of rule.
    fn read(message: &RuleMessage) -> Option<Self> {
        if !message.header.flags.contains(RuleFlags::Invert) {
            return None;
        }
        let find = |pick: fn(&RuleAttribute) -> Option<u32>| message.attributes.iter().find_map(pick);
        Some(Self {
            v6: message.header.family == AddressFamily::Inet6,
            mark: find(|attribute| match attribute {
                RuleAttribute::FwMark(mark) => Some(*mark),
                _ => None,
            })?,
            table: find(|attribute| match attribute {
                RuleAttribute::Table(table) => Some(*table),
                _ => None,
            })
            .unwrap_or_else(|| message.header.table.into()),
            priority: find(|attribute| match attribute {
                RuleAttribute::Priority(priority) => Some(*priority),
                _ => None,
            })?,
            protocol: u8::try_from(find(|attribute| match attribute {
                RuleAttribute::Protocol(protocol) => Some(u8::from(*protocol).into()),
                _ => None,
            })?)
            .ok()?,
        })
    }
}

const fn family(v6: bool) -> AddressFamily {
    if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

impl Netlink {
    /// Rules of this kind that `protocol` made, for both families.
    ///
    /// # Errors
    /// When the kernel doesn't answer.
    pub fn unmarked_rules(&mut self, protocol: u8) -> Result<Vec<UnmarkedRule>> {
        let mut rules = Vec::new();
        for v6 in [false, true] {
            let mut message = RuleMessage::default();
            message.header.family = family(v6);
            rules.extend(self.socket.dump(
                &Request::new(RTM_GETRULE, 0, &message),
                || "list policy routing rules".to_owned(),
                |_, payload, all| {
                    let rule =
                        parse_or_skip(payload, "rules").and_then(|message| UnmarkedRule::read(&message));
                    all.extend(rule.filter(|rule| rule.protocol == protocol));
                    Ok(())
                },
            )?);
        }
        Ok(rules)
    }

    /// Makes a rule.
    ///
    /// # Errors
    /// [`crate::Error::Exists`] when it is there.
    pub fn add_unmarked_rule(&mut self, rule: &UnmarkedRule) -> Result<()> {
        let request = Request::new(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, &rule.message());
        self.socket.execute(&request, || format!("add policy routing rule for table {}", rule.table))
    }

    /// Removes a rule.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] when it is not there.
    pub fn delete_unmarked_rule(&mut self, rule: &UnmarkedRule) -> Result<()> {
        let request = Request::new(RTM_DELRULE, 0, &rule.message());
        self.socket.execute(&request, || format!("delete policy routing rule for table {}", rule.table))
    }
}
