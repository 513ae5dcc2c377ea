//! End-to-end tests: the real programs, in real kernel namespaces, with real packets.
//!
//! The process that cargo starts runs the cases that need the machine as it is, and hands the others to a second
//! execution of itself inside the sandbox, which keeps a cluster from one case to the next where that is safe.
//! What the machine cannot run is ignored with the reason on standard error, or fails with `TESTS_REQUIRE_ALL=1`.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod attack;
mod backend;
mod bgp;
mod bird;
mod claims;
mod cleanup;
mod cni;
mod datastore;
mod demo;
mod fields;
mod health;
mod host;
mod input;
mod ipam;
mod ipip;
mod labs;
mod live;
mod look;
mod mtu;
mod offload;
mod others;
mod peers;
mod phases;
mod policy;
mod pools;
mod racks;
mod ranges;
mod remote;
mod restart;
mod rootless;
mod routers;
mod runtimes;
mod topology;
mod tunnels;
mod vm;
mod wireguard;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use margay_tests::sandbox;

use crate::labs::Labs;
use crate::remote::Remote;

/// Where a case runs.
#[derive(Clone, Copy)]
enum Place {
    /// In the sandbox.
    Inside(fn(&mut Labs) -> Result<()>),
    /// In a virtual machine, for want of a feature of the kernel.
    Virtual(fn(&mut Labs) -> Result<()>),
    /// On the machine as it is.
    Outside(fn() -> Result<()>),
}

use Place::{Inside, Outside, Virtual};

/// Every case. Those that share a cluster stand together; a shared cluster is as it was after each of them.
const CASES: &[(&str, Place)] = &[
    ("host::untouched_by_the_demo", Outside(host::untouched_by_the_demo)),
    ("host::untouched_after_ctrl_c", Outside(host::untouched_after_ctrl_c)),
    ("host::untouched_after_sigkill", Outside(host::untouched_after_sigkill)),
    ("host::untouched_after_a_failed_step", Outside(host::untouched_after_a_failed_step)),
    ("rootless::a_user_runs_the_demo", Outside(rootless::a_user_runs_the_demo)),
    ("rootless::without_namespaces_one_sentence", Outside(rootless::without_namespaces_one_sentence)),
    ("demo::embedded", Inside(demo::embedded)),
    ("input::malformed_yaml_is_named", Inside(input::malformed_yaml_is_named)),
    ("input::bad_pools_are_refused", Inside(input::bad_pools_are_refused)),
    ("input::a_node_without_an_address_is_named", Inside(input::a_node_without_an_address_is_named)),
    ("cni::bad_netns", Inside(cni::bad_netns)),
    ("cni::added_twice", Inside(cni::added_twice)),
    ("cni::deleted_twice", Inside(cni::deleted_twice)),
    ("cni::deleted_without_a_netns", Inside(cni::deleted_without_a_netns)),
    ("cni::deleted_and_added_again", Inside(cni::deleted_and_added_again)),
    ("cni::every_version", Inside(cni::every_version)),
    ("cni::two_interfaces", Inside(cni::two_interfaces)),
    ("cni::annotated", Inside(cni::annotated)),
    ("cni::gc_and_status_by_hand", Inside(cni::gc_and_status_by_hand)),
    ("phases::of_an_add", Inside(phases::of_an_add)),
    ("phases::spooled_before_an_add", Inside(phases::spooled_before_an_add)),
    ("phases::of_two_sandboxes", Inside(phases::of_two_sandboxes)),
    ("phases::a_lost_journal", Inside(phases::a_lost_journal)),
    ("phases::addresses_of_nobody", Inside(phases::addresses_of_nobody)),
    ("phases::collected_as_far_as_can_be", Inside(phases::collected_as_far_as_can_be)),
    ("claims::one_that_fails_fails_alone", Inside(claims::one_that_fails_fails_alone)),
    ("cni::agent_down", Inside(cni::agent_down)),
    ("cni::killed_right_after_del", Inside(cni::killed_right_after_del)),
    ("runtimes::podman", Inside(runtimes::podman)),
    ("runtimes::containerd_ctr", Inside(runtimes::containerd_ctr)),
    ("runtimes::containerd_cri", Inside(runtimes::containerd_cri)),
    (CNITOOL, Inside(runtimes::cnitool)),
    ("bgp::bytes_of_a_stranger", Inside(bgp::bytes_of_a_stranger)),
    ("bgp::bytes_from_a_peers_address", Inside(bgp::bytes_from_a_peers_address)),
    ("bgp::a_peer_that_turns_bad", Inside(bgp::a_peer_that_turns_bad)),
    ("bgp::half_open_connections", Inside(bgp::half_open_connections)),
    ("attack::by_routers", Inside(attack::by_routers)),
    ("look::at_sessions_and_routes", Inside(look::at_sessions_and_routes)),
    ("look::at_what_changes", Inside(look::at_what_changes)),
    ("look::at_the_table_as_others_read_it", Inside(look::at_the_table_as_others_read_it)),
    ("restart::a_second_agent_refuses", Inside(restart::a_second_agent_refuses)),
    ("restart::a_killed_agent_loses_nothing", Inside(restart::a_killed_agent_loses_nothing)),
    ("restart::killed_while_policies_change", Inside(restart::killed_while_policies_change)),
    ("live::policy_before_the_first_packet", Inside(live::policy_before_the_first_packet)),
    ("demo::etcd", Inside(demo::etcd)),
    ("input::bad_pools_in_the_datastore", Inside(input::bad_pools_in_the_datastore)),
    ("datastore::lost_later", Inside(datastore::lost_later)),
    ("datastore::unreachable_at_start", Inside(datastore::unreachable_at_start)),
    ("datastore::cannot_be_opened", Inside(datastore::cannot_be_opened)),
    ("input::an_agent_without_an_address_waits", Inside(input::an_agent_without_an_address_waits)),
    ("pools::no_block_left", Inside(pools::no_block_left)),
    ("pools::switched_with_packets_under_way", Inside(pools::switched_with_packets_under_way)),
    ("pools::no_address_left", Inside(pools::no_address_left)),
    ("pools::borrowed", Inside(pools::borrowed)),
    ("ipam::empty_blocks_are_given_back", Inside(ipam::empty_blocks_are_given_back)),
    ("ipam::dead_nodes_are_collected", Inside(ipam::dead_nodes_are_collected)),
    ("ipam::a_crowd_with_deaths", Inside(ipam::a_crowd_with_deaths)),
    ("ipam::split_and_configured", Inside(ipam::split_and_configured)),
    ("ipam::annotations_choose_pools", Inside(ipam::annotations_choose_pools)),
    ("ipam::pools_for_some", Inside(ipam::pools_for_some)),
    ("ipam::lost_interfaces_are_collected", Inside(ipam::lost_interfaces_are_collected)),
    ("others::a_range_of_host_local", Inside(others::a_range_of_host_local)),
    ("others::addresses_of_host_local", Inside(others::addresses_of_host_local)),
    ("others::policy_beside_ptp", Inside(others::policy_beside_ptp)),
    ("others::installed_when_ready", Inside(others::installed_when_ready)),
    ("ipip::a_kernel_without_it", Inside(ipip::a_kernel_without_it)),
    ("policy::watched_cut_and_foretold", Inside(policy::watched_cut_and_foretold)),
    ("policy::an_address_comes_without_its_flows", Inside(policy::an_address_comes_without_its_flows)),
    ("backend::vxlan_needs_no_bgp", Inside(backend::vxlan_needs_no_bgp)),
    ("topology::reflectors_come_and_go", Inside(topology::reflectors_come_and_go)),
    (
        "topology::what_calicos_documentation_configures",
        Inside(topology::what_calicos_documentation_configures),
    ),
    ("routers::restarts_on_either_side", Inside(routers::restarts_on_either_side)),
    ("fields::services_are_advertised", Inside(fields::services_are_advertised)),
    ("fields::a_filter_lets_out_what_a_pool_keeps", Inside(fields::a_filter_lets_out_what_a_pool_keeps)),
    ("fields::filters_match_interfaces", Inside(fields::filters_match_interfaces)),
    ("racks::two_of_one_as", Inside(racks::two_of_one_as)),
    ("peers::every_way_to_one", Inside(peers::every_way_to_one)),
    ("fields::a_workload_speaks_bgp", Inside(fields::a_workload_speaks_bgp)),
    ("topology::two_reflectors_of_one_cluster", Inside(topology::two_reflectors_of_one_cluster)),
    ("ranges::neighbours_that_no_object_names", Inside(ranges::neighbours_that_no_object_names)),
    ("topology::reflectors_are_upgraded_in_place", Inside(topology::reflectors_are_upgraded_in_place)),
    (
        "topology::agents_and_reflectors_share_machines",
        Inside(topology::agents_and_reflectors_share_machines),
    ),
    ("topology::reflectors_tell_addresses_of_nobody", Inside(topology::reflectors_tell_addresses_of_nobody)),
    ("topology::a_reflector_that_never_comes_up", Inside(topology::a_reflector_that_never_comes_up)),
    ("cleanup::nothing_stays_behind", Inside(cleanup::nothing_stays_behind)),
    ("health::ready_and_stopping", Inside(health::ready_and_stopping)),
    ("tunnels::addresses_are_given_back", Inside(tunnels::addresses_are_given_back)),
    ("tunnels::settings_on_a_live_cluster", Inside(tunnels::settings_on_a_live_cluster)),
    ("wireguard::a_kernel_without_it", Inside(wireguard::a_kernel_without_it)),
    ("offload::a_kernel_without_it", Inside(offload::a_kernel_without_it)),
    ("vm::ipip_between_nodes", Virtual(ipip::between_nodes)),
    ("vm::ipip_between_subnets", Virtual(ipip::between_subnets)),
    ("vm::wireguard_between_nodes", Virtual(wireguard::between_nodes)),
    ("vm::an_mtu_that_is_refused", Virtual(mtu::refused_for_a_while)),
    ("vm::flow_table", Virtual(offload::established_flows)),
];

/// It is built from source by a Go compiler newer than Debian's: without one it is not on the list.
const CNITOOL: &str = "runtimes::cnitool";

/// What the machine lacks for a case.
#[derive(Debug)]
struct Lacks(String);

impl std::fmt::Display for Lacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Lacks {}

fn main() -> ExitCode {
    if sandbox::is_inside() {
        return remote::serve();
    }
    let mut arguments = Arguments::from_args();
    // One after the other: they measure losses, and compare the machine before and after.
    arguments.test_threads = Some(1);
    let (remote, machine) = (Remote::new(sandbox::command), Remote::new(vm::command));
    let trial = |(name, place): &(&'static str, Place)| {
        let (name, place) = (*name, *place);
        let (remote, machine) = (remote.clone(), machine.clone());
        Trial::ignorable_test(name, move || {
            let outcome = possible().and_then(|()| match place {
                Outside(case) => case(),
                Inside(_) if name == CNITOOL => host::build_cnitool().and_then(|()| remote.run(name)),
                Inside(_) => remote.run(name),
                Virtual(_) => machine.run(name),
            });
            finish(outcome)
        })
    };
    let listed = CASES.iter().filter(|(name, _)| *name != CNITOOL || host::go().is_some());
    libtest_mimic::run(&arguments, listed.map(trial).collect()).exit_code()
}

/// Reasons that were printed: once each is enough.
static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn finish(outcome: Result<()>) -> Result<Completion, Failed> {
    let Err(error) = outcome else { return Ok(Completion::Completed) };
    let required = std::env::var_os("TESTS_REQUIRE_ALL").is_some_and(|value| value == "1");
    match error.downcast_ref::<Lacks>() {
        Some(Lacks(reason)) if !required => {
            let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
            if told.insert(reason.clone()) {
                eprintln!("skipped: {reason}");
            }
            Ok(Completion::ignored_with(reason))
        }
        _ => Err(Failed::from(format!("{error:#}"))),
    }
}

/// Whether anything can run at all.
fn possible() -> Result<()> {
    for program in ["margay", "margay-agent", "margay-cni", "margay-demo", "margay-route-reflector"] {
        let path = host::program(program)?;
        if !path.exists() {
            let path = path.display();
            return Err(Lacks(format!("{path} is not built: run `cargo build --workspace --bins`")).into());
        }
    }
    sandbox::command().map(|_| ()).map_err(|error| Lacks(format!("{error:#}")).into())
}
