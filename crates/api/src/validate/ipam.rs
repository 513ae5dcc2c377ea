use crate::{Object, Spec, path::Problems};

pub(crate) fn check_configuration<S: Spec>(_object: &Object<S>, _problems: &mut Problems) {}

pub(crate) fn check_block<S: Spec>(_object: &Object<S>, _problems: &mut Problems) {}
