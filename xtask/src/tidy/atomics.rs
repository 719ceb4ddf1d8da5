//! The library's atomics come through one seam: `sync` alone names those of the core, so
//! that no access escapes the proofs that put their own there.

use super::Finding;
use super::tokens::{each_group, is};
use super::tree::{Source, Tree};
use proc_macro2::TokenTree;

/// The module that may name them.
const SEAM: &str = "sync";

/// Atomics of the core, of the standard library or of a proof, in another module.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let looked_at = |source: &&Source| {
        source.path.starts_with("vmalloc/src/") && source.module.first().is_none_or(|module| module != SEAM)
    };
    tree.sources.iter().filter(looked_at).flat_map(check_source).collect()
}

fn check_source(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    each_group(source.tokens.clone(), &mut |tokens| {
        let named = tokens.windows(4).filter(|path| names_atomics(path));
        findings.extend(named.map(|path| {
            let line = path[0].span().start().line;
            Finding::new(&source.path, line, "atomics that are not of crate::sync: a proof would not see them")
        }));
    });
    findings
}

/// `sync::atomic`, or `sync::{… atomic …}`.
fn names_atomics(path: &[TokenTree]) -> bool {
    let [TokenTree::Ident(sync), colon, other, next] = path else { return false };
    let atomic = |token: &TokenTree| matches!(token, TokenTree::Ident(name) if name == "atomic");
    sync == SEAM
        && is(colon, ':')
        && is(other, ':')
        && match next {
            TokenTree::Group(group) => group.stream().into_iter().any(|token| atomic(&token)),
            next => atomic(next),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<String> {
        let tree = Tree::of(&[
            ("vmalloc/src/lib.rs", "mod a; mod sync;"),
            ("vmalloc/src/a.rs", text),
            ("vmalloc/src/sync.rs", "pub use core::sync::atomic::AtomicU8;"),
        ]);
        check(&tree).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn atomics_of_others_are_found_in_tests_too() {
        let found = ["vmalloc/src/a.rs:1: atomics that are not of crate::sync: a proof would not see them"];
        for text in [
            "use core::sync::atomic::AtomicU8;",
            "use core::{mem, sync::atomic::AtomicU8};",
            "use std::sync::{Arc, atomic::AtomicU8};",
            "fn f(a: &core::sync::atomic::AtomicU8) {}",
            "#[cfg(test)] mod tests { use loom::sync::atomic::AtomicU8; }",
        ] {
            assert_eq!(said(text), found, "{text}");
        }
    }

    #[test]
    fn those_of_the_seam_are_fine() {
        assert_eq!(said("use crate::sync::{AtomicU8, plain::AtomicU64}; use std::sync::Mutex;"), [""; 0]);
    }
}
