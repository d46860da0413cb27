//! Mutants: deliberate bugs, to prove that the tests would find them.
//!
//! Only a build with the feature `mutation` knows them, and only the one that the environment
//! variable `PGHC_MUTANT` names is active. In every other build [`is_active`] is `false` at compile
//! time and nothing of this is left. docs/reliability/records.md says which check catches which.

macro_rules! mutants {
    ($($(#[$doc:meta])* $mutant:ident = $name:literal,)*) => {
        /// A deliberate bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutant { $($(#[$doc])* $mutant,)* }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$mutant,)*];

            /// The name that `PGHC_MUTANT` takes.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$mutant => $name,)* }
            }
        }
    };
}

mutants! {
    /// The log reports writes as durable before it has synced them.
    AckBeforeSync = "ack-before-sync",
    /// The log reports as durable what it has only written.
    SyncSkipped = "sync-skipped",
    /// A vote is reported as durable and never written.
    VoteNotPersisted = "vote-not-persisted",
    /// A write is answered before its own zone has applied it.
    AckBeforeApply = "ack-before-apply",
    /// The applier's update does not compare the epoch.
    NoEpoch = "no-epoch",
    /// A lost commit is taken for a committed one.
    BlindCommit = "blind-commit",
    /// A snapshot leaves the idempotency keys out.
    KeysNotInSnapshot = "keys-not-in-snapshot",
    /// A write's id depends on its entry's index in the log.
    IdFromIndex = "id-from-index",
    /// The log is purged without looking at the zones.
    PurgeIgnoresZones = "purge-ignores-zones",
    /// A leader answers a confirmed read without asking a majority.
    ReadUnconfirmed = "read-unconfirmed",
    /// A batch that is sent again is sent as another one.
    ResendAsNew = "resend-as-new",
    /// chain-verify does not look at the last link.
    VerifySkipsLast = "verify-skips-last",
    /// A coordinator whose log was wiped votes again under its old id.
    WipedVotes = "wiped-votes",
    /// The applier does not compare its chain with the sequencer's.
    HashNotCompared = "hash-not-compared",
    /// A read with a token does not wait for the frontier.
    TokenNotAwaited = "token-not-awaited",
    /// A voter tells the other coordinators of entries that its log has not synced yet.
    AckToAllBeforeSync = "ack-to-all-before-sync",
    /// Acks are counted whichever leader wrote the entries and whatever the votes say.
    AcksOfAnyTerm = "acks-of-any-term",
    /// A node does not compare its zone's chain with the digests that coordinators have confirmed.
    OwnChainNotCompared = "own-chain-not-compared",
    /// A node that stands by takes what a notification says for the frontier.
    BellBelieved = "bell-believed",
    /// A zone is filled from another one whose links no digest of a coordinator confirms.
    SourceNotConfirmed = "source-not-confirmed",
    /// An applier asks for an advisory lock first, which any login can hold.
    ForeignLockObeyed = "foreign-lock-obeyed",
}

/// Whether a mutant is built in that [`is_active`] may choose.
pub const BUILT: bool = cfg!(feature = "mutation");

/// Whether `mutant` is active in this process.
#[cfg(feature = "mutation")]
#[must_use]
pub fn is_active(mutant: Mutant) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("PGHC_MUTANT").ok()).as_deref() == Some(mutant.name())
}

/// Whether `mutant` is active in this process: never.
#[cfg(not(feature = "mutation"))]
#[must_use]
#[inline(always)]
pub const fn is_active(_: Mutant) -> bool {
    false
}
