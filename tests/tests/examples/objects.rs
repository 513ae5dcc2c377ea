//! YAML files: every one belongs to somebody who reads it strictly.

use margay_lab::Topology;

use crate::{files, read, repository};

#[test]
fn every_yaml_file_is_read_by_what_it_is_for() {
    let examples = repository("examples");
    let (mut objects, mut labs) = (0, 0);
    for path in files(&examples, &["yaml", "yml"]) {
        let name = path.strip_prefix(&examples).unwrap().to_string_lossy().into_owned();
        let is_manifest = name.starts_with("kubernetes/") && name.matches('/').count() == 1;
        if name.starts_with("config/") || is_manifest {
            // See daemons.rs and manifests.rs.
            continue;
        }
        if name.ends_with(".clab.yml") {
            let topology = Topology::load(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(topology.warnings.is_empty(), "{name}: {:?}", topology.warnings);
            labs += 1;
            continue;
        }
        match margay_api::yaml::parse(&name, &read(&path)) {
            Ok(resources) => {
                assert!(!resources.is_empty(), "{name} has no object");
                objects += resources.len();
            }
            Err(errors) => panic!("{errors:#?}"),
        }
    }
    assert!(objects > 10 && labs > 0, "{objects} objects and {labs} labs were found");
}
