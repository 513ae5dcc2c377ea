use crate::{Object, Spec, path::Problems};

pub(crate) fn check<S: Spec>(_object: &Object<S>, _problems: &mut Problems) {}

pub(crate) fn check_staged<S: Spec>(_object: &Object<S>, _problems: &mut Problems) {}
