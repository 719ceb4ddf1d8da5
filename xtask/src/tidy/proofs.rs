//! What a proof alone needs is in no release.
//!
//! Rules are broken where `--cfg interleave` is set, steps are refused on request where
//! debug assertions are compiled in. So no crate names either outside of that: the command
//! is made of these crates. Not looked at: the races, which are such a proof, these tools,
//! and the tool of the library that embedders use in their own tests ([`TOOL`]).

use super::Finding;
use super::tokens::{each_group, released};
use super::tree::{Source, Tree};
use proc_macro2::TokenTree;

/// The module that refuses frames on request: of itself it does nothing.
const TOOL: &str = "faulty";
/// Names of what breaks rules, and of what refuses.
const NAMES: [&str; 5] = ["Sabotage", "sabotage", "Faults", "FaultyFrames", TOOL];
/// Crates, and modules, that are there to break and to refuse.
const PROOFS: [&str; 4] = ["interleave/", "xtask/", "vmalloc/src/machine/faulty.rs", "machines/sim/src/sabotage.rs"];

/// Such names in what is released.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let released = |source: &&Source| !PROOFS.iter().any(|proof| source.path.starts_with(proof));
    tree.sources.iter().filter(released).flat_map(check_source).collect()
}

fn check_source(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    each_group(released(source), &mut |tokens| {
        for (at, token) in tokens.iter().enumerate() {
            if let TokenTree::Ident(name) = token
                && NAMES.iter().any(|known| name == known)
                && !declares_tool(&tokens[..=at])
            {
                let what = format!("{name} in what is released: it belongs under a cfg");
                findings.push(Finding::new(&source.path, name.span().start().line, what));
            }
        }
    });
    findings
}

/// Whether these tokens end with `mod faulty`.
fn declares_tool(tokens: &[TokenTree]) -> bool {
    matches!(tokens, [.., TokenTree::Ident(word), TokenTree::Ident(name)] if word == "mod" && name == TOOL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &str, text: &str) -> Vec<String> {
        check(&Tree::of(&[(path, text)])).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn what_breaks_or_refuses_is_found_outside_of_its_cfg() {
        let found = ["a/src/lib.rs:2: Faults in what is released: it belongs under a cfg"];
        assert_eq!(said("a/src/lib.rs", "struct A {\n    faults: Faults,\n}"), found);
        let found = ["a/src/lib.rs:1: sabotage in what is released: it belongs under a cfg"];
        assert_eq!(said("a/src/lib.rs", "trait A { fn sabotage(&self) {} }"), found);
        assert_eq!(said("a/src/lib.rs", "#[cfg(not(debug_assertions))] fn a() { b.sabotage() }"), found);
    }

    #[test]
    fn under_its_cfg_and_in_tests_it_is_fine() {
        assert_eq!(said("a/src/lib.rs", "#[cfg(debug_assertions)] type A = FaultyFrames<B>;"), [""; 0]);
        assert_eq!(said("a/src/lib.rs", "struct A { #[cfg(interleave)] sabotage: Sabotage }"), [""; 0]);
        assert_eq!(said("a/tests/t.rs", "use faulty::Faults;"), [""; 0]);
        assert_eq!(said("vmalloc/src/lib.rs", "pub mod faulty;"), [""; 0]);
    }
}
