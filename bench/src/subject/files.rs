//! Configuration files of the others, as their manuals recommend for a reflector whose clients connect to it.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::plan::{AS, GATEWAY, Plan, REFLECTOR, clients_net};

pub(super) fn bird(command: &mut Command, plan: &Plan, folder: &Path) -> Result<()> {
    let mut text = format!(
        "router id {REFLECTOR};\nlog stderr {{ error, fatal, bug }};\nprotocol device {{}}\n\
         protocol static {{ ipv4; route {} via {GATEWAY}; }}\n\
         template bgp node {{\n local {REFLECTOR} as {AS};\n multihop;\n passive;\n rr client;\n\
         rr cluster id {REFLECTOR};\n ipv4 {{ import all; export where source = RTS_BGP; }};\n}}\n",
        clients_net()
    );
    for client in 0..plan.clients {
        writeln!(text, "protocol bgp c{client} from node {{ neighbor {} as {AS}; }}", Plan::address(client))?;
    }
    let path = folder.join("bird.conf");
    std::fs::write(&path, text)?;
    command.arg("-f").arg("-c").arg(path).arg("-s").arg(folder.join("bird.ctl"));
    Ok(())
}

pub(super) fn frr(command: &mut Command, plan: &Plan, folder: &Path) -> Result<()> {
    let mut text = format!(
        "router bgp {AS}\n bgp router-id {REFLECTOR}\n bgp cluster-id {REFLECTOR}\n no bgp ebgp-requires-policy\n\
         no bgp network import-check\n neighbor clients peer-group\n neighbor clients remote-as {AS}\n\
         neighbor clients passive\n neighbor clients advertisement-interval 0\n\
         coalesce-time 0\n"
    );
    for client in 0..plan.clients {
        writeln!(text, " neighbor {} peer-group clients", Plan::address(client))?;
    }
    text += " address-family ipv4 unicast\n  neighbor clients route-reflector-client\n exit-address-family\n";
    let path = folder.join("bgpd.conf");
    std::fs::write(&path, text)?;
    // Without zebra, for a reflector forwards nothing, and without dropping privileges, for the folder is ours alone.
    command.args(["-n", "-Z", "-S", "-P", "0", "-f"]).arg(path).arg("-i").arg(folder.join("bgpd.pid"));
    command.arg("--vty_socket").arg(folder).args(["--log", "stdout", "--log-level", "errors"]);
    Ok(())
}

pub(super) fn gobgp(command: &mut Command, plan: &Plan, folder: &Path) -> Result<()> {
    let mut text = format!(
        "[global.config]\n as = {AS}\n router-id = \"{REFLECTOR}\"\n local-address-list = [\"{REFLECTOR}\"]\n"
    );
    for client in 0..plan.clients {
        write!(
            text,
            "[[neighbors]]\n [neighbors.config]\n  neighbor-address = \"{}\"\n  peer-as = {AS}\n\
             [neighbors.transport.config]\n  passive-mode = true\n [neighbors.route-reflector.config]\n\
             route-reflector-client = true\n  route-reflector-cluster-id = \"{REFLECTOR}\"\n",
            Plan::address(client)
        )?;
    }
    let path = folder.join("gobgpd.toml");
    std::fs::write(&path, text)?;
    command.args(["-t", "toml", "-l", "error", "--api-hosts", "127.0.0.1:50051", "-f"]).arg(path);
    Ok(())
}

pub(super) fn openbgpd(command: &mut Command, folder: &Path) -> Result<()> {
    let text = format!(
        "AS {AS}\nrouter-id {REFLECTOR}\nlisten on {REFLECTOR}\nfib-update no\nsocket \"{}\"\n\
         group \"clients\" {{\n neighbor {} {{\n  remote-as {AS}\n  passive\n  route-reflector {REFLECTOR}\n }}\n}}\n\
         allow from any\nallow to any\n",
        folder.join("bgpd.sock").display(),
        clients_net()
    );
    let path = folder.join("openbgpd.conf");
    std::fs::write(&path, text)?;
    // It locks itself into its user's home, which its systemd unit makes.
    std::fs::create_dir_all("/run/openbgpd")?;
    // It refuses files that others may read.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    command.arg("-d").arg("-f").arg(path);
    Ok(())
}
