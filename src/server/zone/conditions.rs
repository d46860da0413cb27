//! Conditions that keep a node from serving or its zone from advancing, and which of them is told first. Pure.

/// A condition of a node, the one to tell first in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The database accepts no session of this node.
    DatabaseUnreachable,
    /// The database answers no read, though it may answer the applier.
    ReadsFailing,
    /// The database answers, and no batch is applied.
    ApplyStalled,
    /// Most coordinators refuse this node's reports.
    ReportsRefused,
    /// No coordinator's log reaches back to the zone, and no other zone can fill it.
    TailUnavailable,
}

impl Condition {
    const ALL: [Self; 5] = [
        Self::DatabaseUnreachable,
        Self::ReadsFailing,
        Self::ApplyStalled,
        Self::ReportsRefused,
        Self::TailUnavailable,
    ];
}

/// Effect of one [`Conditions::set`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Unchanged,
    Began,
    /// The condition lasts for another reason.
    Reworded,
    Ended,
}

/// The reason of each condition that holds.
#[derive(Debug, Default)]
pub(crate) struct Conditions([Option<String>; Condition::ALL.len()]);

impl Conditions {
    /// Sets the reason of a condition, or ends it with `None`.
    pub(crate) fn set(&mut self, condition: Condition, reason: Option<String>) -> Change {
        let known = &mut self.0[condition as usize];
        let change = match (&known, &reason) {
            (None, None) => Change::Unchanged,
            (Some(known), Some(reason)) if known == reason => Change::Unchanged,
            (None, Some(_)) => Change::Began,
            (Some(_), Some(_)) => Change::Reworded,
            (Some(_), None) => Change::Ended,
        };
        *known = reason;
        change
    }

    /// Returns the reason of one condition while it holds.
    pub(crate) fn reason(&self, condition: Condition) -> Option<&str> {
        self.0[condition as usize].as_deref()
    }

    /// Returns the reason of the first condition that holds.
    pub(crate) fn first(&self) -> Option<&str> {
        Condition::ALL.into_iter().find_map(|condition| self.reason(condition))
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, Condition, Conditions};

    #[test]
    fn conditions_are_told_in_their_order() {
        let mut conditions = Conditions::default();
        assert_eq!(conditions.first(), None);
        for condition in Condition::ALL.into_iter().rev() {
            conditions.set(condition, Some(format!("{condition:?}")));
            assert_eq!(conditions.first(), Some(format!("{condition:?}").as_str()));
        }
        for condition in Condition::ALL {
            assert_eq!(conditions.first(), Some(format!("{condition:?}").as_str()));
            conditions.set(condition, None);
        }
        assert_eq!(conditions.first(), None);
    }

    #[test]
    fn set_tells_how_the_condition_changed() {
        let mut conditions = Conditions::default();
        for (reason, change) in [
            (None, Change::Unchanged),
            (Some("disk"), Change::Began),
            (Some("disk"), Change::Unchanged),
            (Some("network"), Change::Reworded),
            (None, Change::Ended),
            (None, Change::Unchanged),
        ] {
            let reason = reason.map(str::to_owned);
            assert_eq!(conditions.set(Condition::ApplyStalled, reason), change);
        }
    }
}
