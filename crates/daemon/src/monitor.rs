//! Who looks at BGP from outside: BMP stations (RFC 7854) and the log of updates (MRT, RFC 6396).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use margay_bgp::transport::Monitoring;
use margay_bgp::{MonitoredRib, StationConfig};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::config::{Common, ConfigError};

/// A BMP station, as configured.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BmpStation {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it is told; without: everything.
    pub ribs: Option<Vec<MonitoredRib>>,
    /// Seconds between statistics reports, 0 for none; without: 60.
    pub statistics_seconds: Option<u32>,
    /// KiB that it may leave unread before it is cut off, at least 512; without: 8192.
    pub buffer_kib: Option<u32>,
}

/// The log of updates and session states, as configured.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MrtLog {
    /// The file. Older ones are beside it, with `.1` and so on.
    pub path: PathBuf,
    /// MiB of one file; without: 64.
    pub max_mib: Option<u32>,
    /// Files kept, the current one included, at least 1; without: 4.
    pub files: Option<u16>,
}

/// Least buffer of a station: twice what a dump keeps in flight.
const LEAST_BUFFER_KIB: u32 = 512;
/// Records that may wait to be written.
const RECORDS: usize = 65_536;

/// What the configuration asks for. Opens the log and starts the thread that writes it.
///
/// # Errors
/// A value that cannot be, or a log that cannot be opened.
pub fn monitoring(program: &str, config: &Common) -> Result<Monitoring, ConfigError> {
    let stations = config.bmp.iter().map(station).collect::<Result<_, _>>()?;
    let records = config.mrt_log.as_ref().map(record).transpose()?;
    let description = format!("{program} {}", env!("CARGO_PKG_VERSION"));
    Ok(Monitoring { name: config.node.clone(), description, stations, records })
}

/// Stations as they can be.
///
/// # Errors
/// A value that cannot be.
pub fn checked(stations: Vec<BmpStation>) -> Result<Vec<BmpStation>, ConfigError> {
    stations.iter().try_for_each(|it| station(it).map(drop))?;
    Ok(stations)
}

fn station(station: &BmpStation) -> Result<(SocketAddr, StationConfig), ConfigError> {
    let default = StationConfig::default();
    if station.ribs.as_ref().is_some_and(Vec::is_empty) {
        let hint = format!("bmp station {}: `ribs` is empty: leave it out for all", station.address);
        return Err(ConfigError::Value(hint));
    }
    let buffer = match station.buffer_kib {
        Some(kib) if kib < LEAST_BUFFER_KIB => {
            let hint =
                format!("bmp station {}: `bufferKib` must be at least {LEAST_BUFFER_KIB}", station.address);
            return Err(ConfigError::Value(hint));
        }
        Some(kib) => (kib as usize) << 10,
        None => default.buffer,
    };
    let statistics = station.statistics_seconds.map(|secs| Duration::from_secs(secs.into()));
    let config = StationConfig {
        ribs: station.ribs.clone().unwrap_or(default.ribs),
        buffer,
        statistics: statistics.unwrap_or(default.statistics),
    };
    Ok((station.address, config))
}

fn record(log: &MrtLog) -> Result<mpsc::Sender<bytes::Bytes>, ConfigError> {
    let files = log.files.unwrap_or(4).max(1);
    let max = u64::from(log.max_mib.unwrap_or(64).max(1)) << 20;
    let failed = |error| ConfigError::Value(format!("cannot write mrtLog {}: {error}", log.path.display()));
    let mut rotated = Rotated::open(log.path.clone(), max, files).map_err(failed)?;
    let (records, mut queue) = mpsc::channel::<bytes::Bytes>(RECORDS);
    let write = move || {
        while let Some(record) = queue.blocking_recv() {
            if let Err(error) = rotated.write(&record) {
                tracing::error!(path = %rotated.path.display(), %error, "the MRT log ends here");
                return;
            }
        }
    };
    std::thread::Builder::new().name("mrt-log".to_owned()).spawn(write).map_err(failed)?;
    Ok(records)
}

/// A file that gives way to another before it is larger than `max`.
#[derive(Debug)]
struct Rotated {
    path: PathBuf,
    file: File,
    size: u64,
    max: u64,
    files: u16,
}

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl Rotated {
    fn open(path: PathBuf, max: u64, files: u16) -> std::io::Result<Self> {
        let file = append(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, file, size, max, files })
    }

    fn name(&self, age: u16) -> PathBuf {
        match age {
            0 => self.path.clone(),
            age => {
                let mut name = self.path.clone().into_os_string();
                name.push(format!(".{age}"));
                name.into()
            }
        }
    }

    fn write(&mut self, record: &[u8]) -> std::io::Result<()> {
        if self.size > 0 && self.size + record.len() as u64 > self.max {
            self.rotate()?;
        }
        self.file.write_all(record)?;
        self.size += record.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        for age in (1..self.files).rev() {
            match std::fs::rename(self.name(age - 1), self.name(age)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.files == 1 {
            std::fs::remove_file(&self.path)?;
        }
        self.file = append(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_rotated_and_bounded() {
        let dir = std::env::temp_dir().join(format!("margay-mrt-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut log = Rotated::open(dir.join("log"), 10, 3).unwrap();
        for n in 0..9_u8 {
            log.write(&[n; 5]).unwrap();
        }
        let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
        assert_eq!(read("log"), [8; 5]);
        assert_eq!(read("log.1"), [6, 6, 6, 6, 6, 7, 7, 7, 7, 7]);
        assert_eq!(read("log.2"), [4, 4, 4, 4, 4, 5, 5, 5, 5, 5]);
        assert!(!dir.join("log.3").exists());
        let log = Rotated::open(dir.join("log"), 10, 3).unwrap();
        assert_eq!(log.size, 5, "goes on where it was");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn stations_are_checked() {
        let text = "address: '192.0.2.9:11019'\nribs: [pre-policy, loc-rib]\nstatisticsSeconds: 0\n";
        let parsed: BmpStation = serde_saphyr::from_str(text).unwrap();
        let (address, config) = station(&parsed).unwrap();
        assert_eq!(address, "192.0.2.9:11019".parse().unwrap());
        assert_eq!(config.ribs, [MonitoredRib::PrePolicy, MonitoredRib::LocRib]);
        assert!(config.statistics.is_zero());
        let none = BmpStation { ribs: Some(Vec::new()), ..parsed };
        assert!(station(&none).unwrap_err().to_string().contains("leave it out"));
        let small = BmpStation { buffer_kib: Some(1), ..parsed };
        assert!(station(&small).unwrap_err().to_string().contains("512"));
        assert!(serde_saphyr::from_str::<BmpStation>("address: '[::1]:1'\nrib: []\n").is_err());
    }
}
