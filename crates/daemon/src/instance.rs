//! One daemon of a kind per node.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Held while the daemon runs.
///
/// It is an abstract Unix socket name: those belong to the network namespace, which is what a node is to us
/// (a lab has many on one machine), and the kernel frees them whatever way the process ends.
#[derive(Debug)]
pub struct Instance {
    name: UnixListener,
}

impl AsFd for Instance {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.name.as_fd()
    }
}

/// The claim of a predecessor.
impl From<OwnedFd> for Instance {
    fn from(name: OwnedFd) -> Self {
        Self { name: name.into() }
    }
}

impl Instance {
    /// Claims this node for `program`.
    ///
    /// # Errors
    /// Another process has claimed it.
    pub fn claim(program: &str) -> Result<Self, String> {
        let bind = || UnixListener::bind_addr(&SocketAddr::from_abstract_name(program)?);
        match bind() {
            Ok(listener) => Ok(Self { name: listener }),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(format!(
                "another {program} already runs on this node (in this network namespace); \
                 stop it first: two of them would undo each other's routes and rules"
            )),
            Err(error) => Err(format!("cannot claim this node for {program}: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Instance;

    #[test]
    fn a_second_instance_is_refused_until_the_first_ends() {
        let name = format!("margay-test-{}", std::process::id());
        let first = Instance::claim(&name).unwrap();
        let refusal = Instance::claim(&name).unwrap_err();
        assert!(refusal.contains("already runs on this node"), "{refusal}");
        drop(first);
        Instance::claim(&name).unwrap();
    }
}
