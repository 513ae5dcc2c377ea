//! Large answers in parts: between two of them the speaker goes on with its work, and nothing holds the whole.

use super::handle::{BgpHandle, Command, ServiceStopped};
use crate::status::{RouteInfo, RouteQuery};
use ipnet::IpNet;

/// Entries looked at for one part of the list of prefixes.
pub(super) const LIST: u32 = 32 << 10;
/// Entries in one part of an MRT dump.
pub(super) const DUMP: u32 = 1024;
/// Prefixes whose paths are asked for at once.
const PREFIXES: usize = 256;

/// Routes by prefix, in parts. The prefixes are those of the beginning, their paths those of the moment.
#[derive(Debug)]
pub struct RoutePages {
    handle: BgpHandle,
    query: RouteQuery,
    /// Sorted; `None` until they are known.
    prefixes: Option<Vec<IpNet>>,
    place: usize,
    given: usize,
}

impl RoutePages {
    pub(super) fn new(handle: BgpHandle, query: RouteQuery) -> Self {
        Self { handle, query, prefixes: None, place: 0, given: 0 }
    }

    /// The next part, never empty; `None` at the end.
    ///
    /// # Errors
    /// The speaker has stopped.
    pub async fn next(&mut self) -> Result<Option<Vec<RouteInfo>>, ServiceStopped> {
        if self.prefixes.is_none() {
            self.prefixes = Some(self.list().await?);
        }
        loop {
            let limit = self.query.limit;
            let rest = self.prefixes.as_deref().unwrap_or_default().get(self.place..).unwrap_or_default();
            if rest.is_empty() || (limit > 0 && self.given >= limit) {
                return Ok(None);
            }
            let some: Vec<IpNet> = rest.iter().take(PREFIXES).copied().collect();
            self.place += some.len();
            let query = self.query.clone();
            let mut routes = self.handle.ask(|answer| Command::Paths(query, some, answer)).await?;
            if limit > 0 {
                routes.truncate(limit - self.given);
            }
            self.given += routes.len();
            if !routes.is_empty() {
                return Ok(Some(routes));
            }
        }
    }

    async fn list(&self) -> Result<Vec<IpNet>, ServiceStopped> {
        let mut prefixes = Vec::new();
        let mut next = Some(0);
        while let Some(from) = next {
            let query = self.query.clone();
            let page = self.handle.ask(|answer| Command::Prefixes(query, from, answer)).await?;
            prefixes.extend(page.prefixes);
            next = page.next;
        }
        prefixes.sort_unstable();
        Ok(prefixes)
    }
}
