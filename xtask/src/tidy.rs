//! Checks over the tree that the compiler does not make.
//!
//! - **dead files**: a `.rs` file that no crate reaches ([`modules`]).
//! - **length**: functions over 60 lines, files over 600, and a library whose usual function is
//!   long ([`length`]).
//! - **floors**: a room of the library that names one above its own floor ([`floors`]).
//! - **circles**: files of one room of the library that name each other in a ring ([`circles`]).
//! - **size**: a library with more lines of code than before ([`size`]).
//! - **surface**: a method of `Vmalloc` outside of its room, and internals that are public
//!   ([`surface`]).
//! - **unsafety**: `unsafe` that does not say why it is right ([`unsafety`]).
//! - **calls**: `unwrap`, `todo!` and the like in what ships ([`calls`]).
//! - **callers**: a function of the library that only tests call ([`callers`]).
//! - **names**: what README, ARCHITECTURE and the guides name must exist ([`names`]).
//! - **links**: what a page links to must exist ([`links`]).
//! - **proofs**: what breaks rules or refuses on request, in what is released ([`proofs`]).
//! - **rules**: the name of a rule that the library defines twice ([`rules`]).
//! - **atomics**: atomics of the library that do not come through its `sync` ([`atomics`]).
//! - **interface**: the file that tells a published crate's interface ([`interface`]).
//! - **words**: places that only one workplace knows ([`words`]).
//!
//! Each check reads a [`Tree`], which the tests make of strings.

mod atomics;
mod callers;
mod calls;
mod circles;
pub mod floors;
mod length;
mod links;
mod modules;
mod names;
mod proofs;
mod rules;
mod size;
mod surface;
mod tokens;
pub mod tree;
mod unsafety;
mod words;

use crate::interface;
use crate::project::Project;
use anyhow::Result;
use std::fmt;
pub use tokens::only_for_tests;
use tree::Tree;

/// Something to put right.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Finding {
    /// The file, from the project's folder.
    pub path: String,
    /// The line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl Finding {
    pub fn new(path: &str, line: usize, what: impl Into<String>) -> Finding {
        Finding { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

/// What the checks found, how long the functions are, and how large the library is.
pub struct Report {
    /// Sorted by place.
    pub findings: Vec<Finding>,
    lengths: length::Lengths,
    library: length::Lengths,
    size: size::Size,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        writeln!(f, "tidy: {}", self.size)?;
        let bars = format_args!("bars: median {}, p90 {}", length::MEDIAN, length::P90);
        writeln!(f, "tidy: vmalloc/src has {} ({bars})", self.library)?;
        writeln!(f, "tidy: {}; {} findings", self.lengths, self.findings.len())
    }
}

/// Reads the project's files and runs all checks over them.
pub fn look_at(project: &Project) -> Result<Report> {
    let tree = Tree::read(project)?;
    Ok(report(&tree))
}

fn report(tree: &Tree) -> Report {
    let checks = [
        modules::check,
        length::check,
        floors::check,
        circles::check,
        size::check,
        surface::check,
        unsafety::check,
        calls::check,
        callers::check,
        names::check,
        links::check,
        proofs::check,
        rules::check,
        atomics::check,
        words::check,
        interface::check,
    ];
    let mut findings = tree.broken.clone();
    findings.extend(checks.iter().flat_map(|check| check(tree)));
    findings.sort();
    let (lengths, library) = (length::Lengths::of(tree), length::Lengths::of_library(tree));
    Report { findings, lengths, library, size: size::Size::of(tree) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_of_all_checks_come_sorted_by_place() {
        let tree = Tree::of(&[
            ("vmalloc/src/lib.rs", "mod units;\nimpl Drop for A { fn drop(&mut self) { None::<()>.unwrap() } }"),
            ("vmalloc/src/units.rs", "pub fn g() { todo!() }"),
            ("vmalloc/src/a.rs", ""),
        ]);
        assert_eq!(
            report(&tree).to_string(),
            "vmalloc/interface.txt: is not the interface of the source: `cargo xtask interface` writes it\n\
             vmalloc/src/a.rs: no crate has this file as a module\n\
             vmalloc/src/lib.rs:2: unwrap() in what ships: say why it holds, or refuse\n\
             vmalloc/src/units.rs:1: todo! in what ships\n\
             tidy: vmalloc/src has 3 lines of code (bar 8,800)\n\
             tidy: vmalloc/src has 2 functions, median 1 lines, p90 1, longest 1 (bars: median 5, p90 15)\n\
             tidy: 2 functions, median 1 lines, p90 1, longest 1; 4 findings\n"
        );
    }

    #[test]
    fn a_file_that_does_not_parse_is_a_finding() {
        let tree = Tree::of(&[("vmalloc/src/lib.rs", "fn f( {}")]);
        let findings = report(&tree).findings;
        assert!(findings[0].what.starts_with("does not parse: "), "{findings:?}");
    }
}
