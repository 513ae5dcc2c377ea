use crate::{Object, Spec, path::Problems};

pub(crate) fn check<S: Spec>(_object: &Object<S>, _problems: &mut Problems) {}

pub(crate) fn set_defaults<S: Spec>(_object: &mut Object<S>) {}
