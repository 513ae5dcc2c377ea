use crate::{
    Kind, Metadata, Object, Spec,
    path::{Path, Problems},
};

pub(crate) fn check(_kind: Kind, _metadata: &Metadata, _problems: &mut Problems) {}
pub(crate) fn check_singleton<S: Spec>(_object: &Object<S>, _problems: &mut Problems) {}
pub(crate) fn check_label_name(_name: &str, _path: &Path<'_>, _problems: &mut Problems) {}
pub(crate) fn check_label_value(_value: &str, _path: &Path<'_>, _problems: &mut Problems) {}
