//! A machine that breaks its contract on purpose, so that a proof is seen to notice
//! (`--cfg interleave`).

use crate::Power;

/// How it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// A flush on this CPU does nothing (M6).
    SkipFlush {
        /// The CPU.
        cpu: u32,
    },
    /// A flush on an idle CPU, and on its way out of idleness, does nothing.
    SkipIdleFlush,
    /// A flush discards translations only, and no paging-structure entry.
    KeepTables,
}

impl Sabotage {
    /// Whether a flush on such a CPU does nothing.
    pub(crate) fn skips(self, cpu: u32, power: Power) -> bool {
        match self {
            Sabotage::SkipFlush { cpu: broken } => broken == cpu,
            Sabotage::SkipIdleFlush => power == Power::Idle,
            Sabotage::KeepTables => false,
        }
    }
}
