//! A virtual machine with Debian's kernel, for what the kernel of this machine may lack: IPIP, WireGuard, the flow table.
//!
//! Nothing is installed in it. Its root is an archive in memory, packed from the machine's own files: our programs, the tools
//! they execute with their libraries, the kernel's modules. What it executes talks over the serial line. qemu
//! emulates the processor: slow, but everywhere.

mod archive;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use self::archive::Archive;

/// Where `cargo xtask vm` unpacks the kernel, in the target folder.
const KERNEL: &str = "vm/kernel";

/// What the daemons execute, and labs are made with; the shell, because busybox's prefers its own `ip`.
const TOOLS: [&str; 8] = [
    "/usr/bin/dash",
    "/usr/sbin/bridge",
    "/usr/sbin/ip",
    "/usr/sbin/ipset",
    "/usr/sbin/iptables",
    "/usr/sbin/iptables-restore",
    "/usr/sbin/iptables-save",
    "/usr/sbin/nft",
];

/// Names of busybox.
const APPLETS: [&str; 2] = ["modprobe", "sysctl"];

/// Modules a network is made of.
const MODULES: [&str; 5] =
    ["kernel/net", "kernel/drivers/net", "kernel/crypto", "kernel/arch/x86/crypto", "kernel/lib"];

/// Extensions of iptables.
const XTABLES: &str = "/usr/lib/x86_64-linux-gnu/xtables";

/// What the kernel starts begins like this.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox stty -F /dev/console -echo
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
";

/// What is in a machine, and what it does.
#[derive(Debug)]
pub struct Machine<'a> {
    /// Of the archive; machines of different names can be started at once.
    pub name: &'a str,
    /// Programs of ours, with their names in `/margay`.
    pub programs: &'a [(PathBuf, &'a str)],
    /// Other programs, at the paths they have here.
    pub tools: &'a [&'a str],
    /// Folders with files, at the paths they have here.
    pub folders: &'a [PathBuf],
    /// Lines of shell that process 1 executes; the machine ends with the last.
    pub script: &'a str,
}

/// Whether there is a kernel in cargo's target folder.
#[must_use]
pub fn has_kernel(target: &Path) -> bool {
    target.join(KERNEL).exists()
}

impl Machine<'_> {
    /// qemu, ready to be started: its standard input and output are the serial line. It ends with the caller.
    ///
    /// # Errors
    /// The kernel or a file is not there; the message says what to do.
    pub fn command(&self, target: &Path) -> Result<Command> {
        let kernel = target.join(KERNEL);
        let release = std::fs::read_dir(kernel.join("lib/modules"))
            .ok()
            .and_then(|mut all| all.next()?.ok())
            .context("the virtual machine's kernel is not there: run `cargo xtask vm` once")?
            .file_name();
        let archive = target.join("vm").join(self.name).with_extension("initramfs");
        self.pack(&kernel, &release, &archive)?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-m", "1536", "-smp", "2", "-display", "none", "-monitor", "none", "-serial", "stdio"])
            .args(["-no-reboot", "-nic", "none", "-append", "console=ttyS0 loglevel=1 panic=-1"])
            .arg("-kernel")
            .arg(kernel.join("boot").join(format!("vmlinuz-{}", release.display())))
            .arg("-initrd")
            .arg(&archive);
        Ok(command)
    }

    fn pack(&self, kernel: &Path, release: &OsStr, archive: &Path) -> Result<()> {
        let scratch = archive.with_extension("files");
        std::fs::create_dir_all(&scratch)?;
        let mut root = Archive::begin(archive)?;
        root.file("/init", format!("{INIT}{}", self.script).as_bytes(), 0o755)?;
        for folder in ["/proc", "/sys", "/dev", "/run", "/tmp"] {
            root.folder(Path::new(folder))?;
        }
        root.copy(Path::new("/bin/busybox"), "/bin/busybox")?;
        for name in APPLETS {
            root.link(&format!("/sbin/{name}"), "/bin/busybox")?;
        }
        root.link("/bin/sh", "/usr/bin/dash")?;
        let mut libraries = BTreeSet::new();
        for (source, name) in self.programs {
            let small = scratch.join(name);
            let status = Command::new("strip").arg("-o").arg(&small).arg(source).status()?;
            ensure!(status.success(), "strip {}: {status}", source.display());
            root.copy(&small, &format!("/margay/{name}"))?;
            libraries.extend(libraries_of(source)?);
        }
        for tool in TOOLS.iter().chain(self.tools) {
            let real = std::fs::canonicalize(tool).with_context(|| format!("{tool} is not installed"))?;
            root.copy(&real, tool)?;
            libraries.extend(libraries_of(&real)?);
        }
        for extension in files_of(Path::new(XTABLES))? {
            root.copy(&extension, &extension.to_string_lossy())?;
        }
        for library in libraries {
            root.copy(&library, &library.to_string_lossy())?;
        }
        for folder in self.folders {
            for file in files_of(folder)? {
                root.copy(&file, &file.to_string_lossy())?;
            }
        }
        let modules = kernel.join("lib/modules").join(release);
        for folder in MODULES {
            for file in files_of(&modules.join(folder))? {
                root.copy(&file, &format!("/{}", file.strip_prefix(kernel)?.display()))?;
            }
        }
        for list in ["modules.dep", "modules.alias", "modules.symbols"] {
            root.copy(&modules.join(list), &format!("/lib/modules/{}/{list}", release.display()))?;
        }
        root.end()
    }
}

/// The shared libraries of a program, with its loader.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(text.lines().filter_map(path).collect())
}

/// All files below a folder, in order.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .with_context(|| format!("reading {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        if entry.is_dir() {
            files.extend(files_of(&entry)?);
        } else {
            files.push(entry);
        }
    }
    Ok(files)
}
