//! Reports of this zone to every coordinator, and the view of the cluster that each answers.

pub(crate) mod reporter;
pub(crate) mod views;
