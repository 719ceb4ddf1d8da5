//! Rules that the library breaks on demand.

use vmalloc::machine::Sabotage;
use vmalloc::sync::interleave::Rule;

/// A rule to break.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// One about the order in which CPUs do things.
    Order(Rule),
    /// One that the machine asks to be broken.
    Asked(Sabotage),
}

impl Broken {
    /// Its name, as the command takes it.
    pub fn name(self) -> String {
        match self {
            Broken::Order(rule) => format!("{rule:?}"),
            Broken::Asked(rule) => format!("{rule:?}"),
        }
    }

    /// What the machine asks for.
    pub fn asked(this: Option<Broken>) -> Sabotage {
        match this {
            Some(Broken::Asked(rule)) => rule,
            _ => Sabotage::None,
        }
    }

    /// What is broken by thread.
    pub fn order(this: Option<Broken>) -> Option<Rule> {
        match this {
            Some(Broken::Order(rule)) => Some(rule),
            _ => None,
        }
    }
}
