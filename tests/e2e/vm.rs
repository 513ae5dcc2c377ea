//! A virtual machine with Debian's kernel, for what the kernel under the tests may lack: IPIP, WireGuard.
//!
//! Nothing is installed in it. Its root is an archive in memory, packed from the machine's own files: the programs under test,
//! the tools they execute with their libraries, the kernel's modules. Its first process is this test program, which
//! is told its cases over the serial line as it is told them in the sandbox. qemu emulates the processor: slow, but everywhere.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use margay_tests::cluster::repository;

use crate::{Lacks, host};

/// Where `cargo xtask vm` unpacks the kernel, in the target folder.
const KERNEL: &str = "vm/kernel";

/// What the daemons and the cases execute.
const TOOLS: [&str; 5] = [
    "/usr/sbin/ip",
    "/usr/sbin/iptables-restore",
    "/usr/sbin/iptables-save",
    "/usr/sbin/ipset",
    "/usr/sbin/nft",
];

/// Our programs, beside this one.
const PROGRAMS: [&str; 3] = ["margay", "margay-agent", "margay-cni"];

/// Modules a network is made of.
const MODULES: [&str; 5] =
    ["kernel/net", "kernel/drivers/net", "kernel/crypto", "kernel/arch/x86/crypto", "kernel/lib"];

/// Extensions of iptables.
const XTABLES: &str = "/usr/lib/x86_64-linux-gnu/xtables";

/// What the kernel starts.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox stty -F /dev/console -echo
export PATH=/usr/sbin:/usr/bin:/sbin:/bin MARGAY_SANDBOX=1
exec /margay/e2e
";

/// qemu, ready to be started with pipes.
pub(crate) fn command() -> Result<Command> {
    let kernel = host::target()?.join(KERNEL);
    let lacks = |what: &str| Lacks(format!("{what}: run `cargo xtask vm` once"));
    let release = std::fs::read_dir(kernel.join("lib/modules"))
        .ok()
        .and_then(|mut all| all.next()?.ok())
        .ok_or_else(|| lacks("the virtual machine's kernel is not there"))?
        .file_name();
    let archive = host::target()?.join("vm/initramfs");
    pack(&kernel, &release, &archive)?;
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

fn pack(kernel: &Path, release: &OsStr, archive: &Path) -> Result<()> {
    let own = std::env::current_exe()?;
    let scratch = archive.with_extension("files");
    std::fs::create_dir_all(&scratch)?;
    let mut root = Archive::begin(archive)?;
    root.file("/init", INIT.as_bytes(), 0o755)?;
    for folder in ["/proc", "/sys", "/dev", "/run", "/tmp"] {
        root.folder(Path::new(folder))?;
    }
    root.copy(Path::new("/bin/busybox"), "/bin/busybox")?;
    for name in ["sh", "modprobe"] {
        root.link(&format!("/sbin/{name}"), "/bin/busybox")?;
    }
    root.link("/bin/sh", "/bin/busybox")?;
    let mut libraries = BTreeSet::new();
    for (source, name) in [(own, "e2e")].into_iter().chain(
        PROGRAMS
            .iter()
            .map(|name| host::program(name).map(|path| (path, *name)))
            .collect::<Result<Vec<_>>>()?,
    ) {
        let small = scratch.join(name);
        let status = Command::new("strip").arg("-o").arg(&small).arg(&source).status()?;
        ensure!(status.success(), "strip {}: {status}", source.display());
        root.copy(&small, &format!("/margay/{name}"))?;
        libraries.extend(libraries_of(&source)?);
    }
    for tool in TOOLS {
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
    for folder in ["examples", "tests/labs"] {
        for file in files_of(&repository().join(folder))? {
            root.copy(&file, &file.to_string_lossy())?;
        }
    }
    let modules = kernel.join("lib/modules").join(release);
    for file in
        MODULES.iter().map(|folder| files_of(&modules.join(folder))).collect::<Result<Vec<_>>>()?.concat()
    {
        root.copy(&file, &format!("/{}", file.strip_prefix(kernel)?.display()))?;
    }
    for list in ["modules.dep", "modules.alias", "modules.symbols"] {
        root.copy(&modules.join(list), &format!("/lib/modules/{}/{list}", release.display()))?;
    }
    root.end()
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

/// A cpio archive of the form the kernel unpacks ("newc", Documentation/driver-api/early-userspace/buffer-format.rst).
struct Archive {
    file: BufWriter<File>,
    folders: BTreeSet<PathBuf>,
    entries: u32,
}

impl Archive {
    fn begin(path: &Path) -> Result<Self> {
        let file = BufWriter::new(File::create(path)?);
        Ok(Self { file, folders: BTreeSet::new(), entries: 0 })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes)?;
        let padding = bytes.len().wrapping_neg() % 4;
        Ok(self.file.write_all(&[0; 3][..padding])?)
    }

    fn entry(&mut self, name: &Path, mode: u32, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let name = name.strip_prefix("/").unwrap_or(name).as_os_str().as_bytes();
        let mut head = b"070701".to_vec();
        let fields = [self.entries, mode, 0, 0, 1, 0, u32::try_from(content.len())?, 0, 0, 0, 0];
        for field in fields.into_iter().chain([u32::try_from(name.len() + 1)?, 0]) {
            write!(head, "{field:08x}")?;
        }
        head.extend(name);
        head.push(0);
        self.put(&head)?;
        self.put(content)
    }

    /// A folder, and those it is in.
    fn folder(&mut self, path: &Path) -> Result<()> {
        if path.parent().is_none() || !self.folders.insert(path.to_owned()) {
            return Ok(());
        }
        path.parent().map_or(Ok(()), |parent| self.folder(parent))?;
        self.entry(path, 0o040_755, &[])
    }

    fn file(&mut self, name: &str, content: &[u8], mode: u32) -> Result<()> {
        let name = Path::new(name);
        name.parent().map_or(Ok(()), |parent| self.folder(parent))?;
        self.entry(name, 0o100_000 | mode, content)
    }

    fn link(&mut self, name: &str, target: &str) -> Result<()> {
        let name = Path::new(name);
        name.parent().map_or(Ok(()), |parent| self.folder(parent))?;
        self.entry(name, 0o120_777, target.as_bytes())
    }

    fn copy(&mut self, source: &Path, name: &str) -> Result<()> {
        let content = std::fs::read(source).with_context(|| format!("reading {}", source.display()))?;
        let mode = std::fs::metadata(source)?.permissions().mode() & 0o777;
        self.file(name, &content, mode)
    }

    fn end(mut self) -> Result<()> {
        self.entry(Path::new("TRAILER!!!"), 0, &[])?;
        Ok(self.file.flush()?)
    }
}
