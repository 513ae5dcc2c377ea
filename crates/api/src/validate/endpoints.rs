use crate::{Object, Spec, path::Problems};

pub(crate) fn check_host<S: Spec>(_object: &Object<S>, _problems: &mut Problems) {}

pub(crate) fn check_workload<S: Spec>(_object: &Object<S>, _problems: &mut Problems) {}
