use crate::{Object, Spec, path::Problems};

pub(crate) fn check_configuration<S: Spec>(_object: &Object<S>, _problems: &mut Problems) {}

pub(crate) fn check_peer<S: Spec>(_object: &Object<S>, _problems: &mut Problems) {}

pub(crate) fn check_filter<S: Spec>(_object: &Object<S>, _problems: &mut Problems) {}

pub(crate) fn set_configuration_defaults<S: Spec>(_object: &mut Object<S>) {}
