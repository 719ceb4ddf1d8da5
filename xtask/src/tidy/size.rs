//! How many lines of code the library has.
//!
//! A line counts if it has code that ships: not a blank one, not a comment, not a test or a
//! model, not what is under `#[cfg(test)]`, and not what a proof alone needs ([`PROOFS`]).

use super::Finding;
use super::tokens::shipped;
use super::tree::{Source, Tree};
use proc_macro2::{TokenStream, TokenTree};
use std::collections::BTreeSet;
use std::fmt;

/// The lines that the library is to have at most.
const BAR: usize = 8_800;
/// The lines that it must not grow beyond. Whoever makes the library smaller
/// lowers this number, until it is the bar; it rises by what a new feature takes.
const CEILING: usize = 12_017;
/// Files that no release links. A build with `absent.rs` has failed.
const PROOFS: [&str; 3] =
    ["vmalloc/src/sync/interleave.rs", "vmalloc/src/machine/faulty.rs", "vmalloc/src/sync/absent.rs"];

/// A library over the ceiling.
pub fn check(tree: &Tree) -> Vec<Finding> {
    over(Size::of(tree), CEILING)
}

fn over(size: Size, ceiling: usize) -> Vec<Finding> {
    let what = || format!("{} lines of code, grown over the {} of before", thousands(size.0), thousands(ceiling));
    (size.0 > ceiling).then(|| Finding::new("vmalloc/src", 0, what())).into_iter().collect()
}

/// The lines of code of the library.
#[derive(Clone, Copy)]
pub struct Size(usize);

impl Size {
    /// Of this tree's library.
    pub fn of(tree: &Tree) -> Size {
        let library =
            |source: &&Source| source.path.starts_with("vmalloc/src/") && !PROOFS.contains(&source.path.as_str());
        Size(tree.sources.iter().filter(library).map(lines_of_code).sum())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vmalloc/src has {} lines of code (bar {})", thousands(self.0), thousands(BAR))
    }
}

fn thousands(n: usize) -> String {
    if n < 1000 { n.to_string() } else { format!("{},{:03}", n / 1000, n % 1000) }
}

fn lines_of_code(source: &Source) -> usize {
    let mut lines = BTreeSet::new();
    mark(shipped(source), &mut lines);
    // A doc comment is an attribute to the compiler.
    let code = |line: &usize| {
        let text = source.lines.get(line - 1).map_or("", |text| text.trim());
        !text.is_empty() && !text.starts_with("//")
    };
    lines.iter().filter(|line| code(line)).count()
}

/// The lines of all tokens.
fn mark(tokens: TokenStream, lines: &mut BTreeSet<usize>) {
    for token in tokens {
        if let TokenTree::Group(group) = token {
            lines.extend([group.span_open(), group.span_close()].map(|span| span.start().line));
            mark(group.stream(), lines);
        } else {
            lines.extend(token.span().start().line..=token.span().end().line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(text: &str) -> Size {
        let root = "mod a;";
        let tree = Tree::of(&[("vmalloc/src/lib.rs", root), ("vmalloc/src/a.rs", text), ("b/src/lib.rs", "fn b() {}")]);
        // Without the line of the root.
        Size(Size::of(&tree).0 - 1)
    }

    #[test]
    fn lines_with_code_count() {
        assert_eq!(size("fn f(\n    a: u8,\n) {\n    g(a); h(a)\n}\n").0, 5);
        assert_eq!(size("const A: &str = \"\n  text\n\";\nfn f() {} // Why.\n").0, 4);
    }

    #[test]
    fn comments_blank_lines_and_tests_do_not() {
        assert_eq!(size("//! Header.\n\n/// Doc.\nfn f() {\n    // Why.\n\n}\n").0, 2);
        assert_eq!(size("fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n").0, 1);
        assert_eq!(size("fn f() {}\n#[cfg(all(test, not(loom)))]\nmod tests {\n    fn g() {}\n}\n").0, 1);
    }

    #[test]
    fn files_of_tests_and_of_proofs_do_not() {
        let tree = Tree::of(&[
            ("vmalloc/src/lib.rs", "mod sync;\n#[cfg(test)]\nmod model;"),
            ("vmalloc/src/model.rs", "fn f() {}"),
            ("vmalloc/src/sync.rs", "mod interleave;"),
            ("vmalloc/src/sync/interleave.rs", "fn f() {}"),
        ]);
        assert_eq!(Size::of(&tree).0, 2);
    }

    #[test]
    fn growth_is_found_and_the_bar_is_told() {
        assert_eq!(over(Size(9_000), 9_000), []);
        let what = "vmalloc/src: 9,001 lines of code, grown over the 9,000 of before";
        assert_eq!(over(Size(9_001), 9_000).iter().map(ToString::to_string).collect::<Vec<_>>(), [what]);
        assert_eq!(Size(9_876).to_string(), "vmalloc/src has 9,876 lines of code (bar 8,800)");
        assert_eq!(thousands(12_034), "12,034");
        assert_eq!(thousands(12), "12");
    }
}
