//! The iptables programs: finding them and executing them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::apply::error::{ApplyError, program_family};
use crate::apply::programs;
use crate::rules::Family;

/// Seconds a program waits for the lock that all iptables programs share: those of both families take their turns.
const LOCK_WAIT: &str = "5";

/// Which kernel interface the iptables programs write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::apply) enum Variant {
    /// `iptables-nft`.
    Nft,
    /// `iptables-legacy`.
    Legacy,
}

impl Variant {
    const fn infix(self) -> &'static str {
        match self {
            Self::Nft => "-nft",
            Self::Legacy => "-legacy",
        }
    }
}

/// The programs in use.
#[derive(Debug, Clone)]
pub(in crate::apply) struct Programs {
    variant: Option<Variant>,
    paths: BTreeMap<(Family, &'static str), PathBuf>,
}

impl Programs {
    /// Finds the programs: of this variant, or of the one that already holds kubelet's or more rules (as kube-proxy's
    /// wrapper decides), then the system's default.
    ///
    /// # Errors
    /// There are none where to look.
    pub(in crate::apply) fn find(folders: &[PathBuf], variant: Option<Variant>) -> Result<Self, ApplyError> {
        if variant.is_some() {
            return Self::of(folders, variant);
        }
        let both = (Self::of(folders, Some(Variant::Nft)), Self::of(folders, Some(Variant::Legacy)));
        if let (Ok(nft), Ok(legacy)) = both {
            // Unreadable counts as unused. The legacy variant is asked first: where it is not used it answers at once,
            // while the other may have thousands of rules of ours to tell.
            let weigh =
                |programs: &Self| programs.save(Family::V4).map(|text| weight(&text)).unwrap_or((false, 0));
            let unused = weight("");
            let legacy_weight = weigh(&legacy);
            let default = Self::default_of(folders);
            if legacy_weight == unused && matches!(default, Ok(Self { variant: Some(Variant::Nft), .. })) {
                return default;
            }
            let nft_weight = weigh(&nft);
            if nft_weight != legacy_weight {
                return Ok(if nft_weight > legacy_weight { nft } else { legacy });
            }
        }
        Self::default_of(folders)
    }

    /// The system's default, and which variant that is.
    fn default_of(folders: &[PathBuf]) -> Result<Self, ApplyError> {
        let default = Self::of(folders, None)?;
        let version = programs::run(&default.path(Family::V4, "save"), &["--version"], "")?;
        let variant = if version.contains("nf_tables") { Variant::Nft } else { Variant::Legacy };
        Ok(Self { variant: Some(variant), ..default })
    }

    fn of(folders: &[PathBuf], variant: Option<Variant>) -> Result<Self, ApplyError> {
        let mut paths = BTreeMap::new();
        for family in Family::ALL {
            for verb in ["save", "restore"] {
                let infix = variant.map_or("", Variant::infix);
                let program = format!("{}{infix}-{verb}", program_family(family));
                paths.insert((family, verb), programs::find(folders, &program, "iptables")?);
            }
        }
        Ok(Self { variant, paths })
    }

    /// Which variant they are.
    pub(super) const fn variant(&self) -> Option<Variant> {
        self.variant
    }

    fn path(&self, family: Family, verb: &'static str) -> PathBuf {
        self.paths.get(&(family, verb)).cloned().unwrap_or_default()
    }

    /// All tables of a family with counters, as text.
    pub(in crate::apply) fn save(&self, family: Family) -> Result<String, ApplyError> {
        programs::run(&self.path(family, "save"), &["-c"], "")
    }

    /// Gives a text to `iptables-restore --noflush`.
    pub(in crate::apply) fn restore(&self, family: Family, input: &str) -> Result<(), ApplyError> {
        programs::run(&self.path(family, "restore"), &["--noflush", "--wait", LOCK_WAIT], input).map(drop)
    }
}

/// Whether kubelet put its marker there, and how many rules there are.
fn weight(saved: &str) -> (bool, usize) {
    let kubelet = saved.contains(":KUBE-IPTABLES-HINT") || saved.contains(":KUBE-KUBELET-CANARY");
    (kubelet, saved.lines().filter(|line| line.contains("-A ")).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelets_marker_outweighs_rules() {
        let kubelet = weight(":KUBE-KUBELET-CANARY - [0:0]\n");
        let many = weight("[0:0] -A INPUT -j ACCEPT\n[0:0] -A INPUT -j DROP\n");
        assert!(kubelet > many);
    }
}
