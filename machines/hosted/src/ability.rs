//! What Linux lets this process do, until it refuses.
//!
//! A call that has worked may be refused later: by a seccomp filter, by PR_SET_MDWE, by memory that is locked.
//! Each ability of which a binding makes use has another way, which is taken from the first refusal on.
//!
//! | Without | A binding |
//! |---|---|
//! | [`Ability::Alias`] | is an `mmap` of the file; only then a fork at that very moment gets the mapping |
//! | [`Ability::Guards`] | covers no gap, which costs a VMA more |
//! | [`Ability::Protect`] | that is not to be read and written is an `mmap`, as above |
//! | [`Ability::Exec`] | that is to be executed is an `mmap`, as above |
//!
//! A shortage is no refusal of this kind: the binding fails, and a later one tries the same way.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// What may be taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ability {
    /// `mremap` makes a second mapping.
    Alias,
    /// MADV_GUARD_INSTALL works on the file.
    Guards,
    /// `mprotect` changes what nobody executes.
    Protect,
    /// `mprotect` lets memory become executable.
    Exec,
}

/// The abilities that are left.
pub struct Abilities([AtomicBool; 4]);

impl Abilities {
    /// All of them.
    pub fn new() -> Abilities {
        Abilities([const { AtomicBool::new(true) }; 4])
    }

    /// Whether it is left.
    pub fn has(&self, ability: Ability) -> bool {
        self.0[ability as usize].load(Relaxed)
    }

    /// It was refused with `number`: whether it is lost, so that another way is to be taken.
    pub fn lose(&self, ability: Ability, number: i32) -> bool {
        let is_denial = matches!(number, libc::EPERM | libc::EACCES | libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP);
        if is_denial {
            self.0[ability as usize].store(false, Relaxed);
        }
        is_denial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_takes_one_ability_away_and_a_shortage_none() {
        let all = [Ability::Alias, Ability::Guards, Ability::Protect, Ability::Exec];
        for lost in all {
            let abilities = Abilities::new();
            assert!(!abilities.lose(lost, libc::ENOMEM) && abilities.has(lost));
            assert!(abilities.lose(lost, libc::EPERM));
            assert!(all.iter().all(|&one| abilities.has(one) == (one != lost)));
        }
    }
}
