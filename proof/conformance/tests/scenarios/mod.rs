//! Scenarios by subject.

pub(crate) mod commands;
pub(crate) mod datagrams;
pub(crate) mod descriptors;
pub(crate) mod drains;
pub(crate) mod faults;
pub(crate) mod named;
pub(crate) mod privileges;
pub(crate) mod processes;
pub(crate) mod renames;
pub(crate) mod scripts;
pub(crate) mod strict;
pub(crate) mod terminals;
pub(crate) mod tracing;
