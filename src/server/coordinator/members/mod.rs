//! Changes of the group's members and of its leader, as plans of repeatable steps.

pub(crate) mod leader_balancer;
pub(crate) mod plan;
pub(crate) mod service;
