//! The tiers of the library: who may name whom.
//!
//! The **bottom** names only the bottom; a **middle** module names the bottom
//! and itself, never another middle module; the **top** names all of them.
//! What the crate's root exports again counts as the top, whatever it is.
//! Tests may name whom they like.

use super::Finding;
use super::tokens::{is, shipped};
use super::tree::{Source, Tree};
use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};

pub const BOTTOM: [&str; 6] = ["area", "error", "gfp", "machine", "sync", "units"];
pub const MIDDLE: [&str; 4] = ["flush", "frames", "space", "table"];

/// Names of a module above or beside its own tier, in the library.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let library = |source: &&Source| source.path.starts_with("vmalloc/src/");
    tree.sources.iter().filter(library).flat_map(check_source).collect()
}

fn check_source(source: &Source) -> Vec<Finding> {
    let Some(own) = source.module.first() else { return Vec::new() };
    let mut named = Names { module: source.module.clone(), found: Vec::new() };
    named.walk(shipped(source));
    let wrong = named.found.into_iter().filter(|(_, name)| !may_name(own, name));
    wrong.map(|(line, name)| Finding::new(&source.path, line, blame(own, &name))).collect()
}

fn may_name(own: &str, other: &str) -> bool {
    let middle_or_bottom = BOTTOM.contains(&own) || MIDDLE.contains(&own);
    own == other || !middle_or_bottom || BOTTOM.contains(&other)
}

fn blame(own: &str, other: &str) -> String {
    let tier = if BOTTOM.contains(&own) { "bottom" } else { "middle" };
    let other = if other == "*" { "everything in the crate's root".to_owned() } else { format!("crate::{other}") };
    format!("{own} ({tier} tier) names {other}")
}

/// Collects the first segment after the crate of each path that starts with
/// `crate`, `self` or `super`.
struct Names {
    /// Where we are.
    module: Vec<String>,
    found: Vec<(usize, String)>,
}

impl Names {
    fn walk(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => match module_named(&tokens[..at]) {
                    Some(name) if group.delimiter() == Delimiter::Brace => {
                        self.module.push(name);
                        self.walk(group.stream());
                        self.module.pop();
                    }
                    _ => self.walk(group.stream()),
                },
                TokenTree::Ident(first) => {
                    if let Some(start) = self.start(first) {
                        self.follow(start, &tokens[at + 1..]);
                    }
                }
                _ => (),
            }
        }
    }

    fn start(&self, first: &Ident) -> Option<Vec<String>> {
        match &*first.to_string() {
            "crate" => Some(Vec::new()),
            "self" => Some(self.module.clone()),
            "super" => Some(parent(&self.module)),
            _ => None,
        }
    }

    /// `rest` follows a path that means the module `at`: goes on while that
    /// is the root of the crate.
    fn follow(&mut self, at: Vec<String>, rest: &[TokenTree]) {
        let [colon, other, next, rest @ ..] = rest else { return };
        if !(is(colon, ':') && is(other, ':')) {
            return;
        }
        match next {
            TokenTree::Ident(super_) if super_ == "super" => self.follow(parent(&at), rest),
            TokenTree::Group(group) => {
                let entries: Vec<TokenTree> = group.stream().into_iter().collect();
                entries.split(|token| is(token, ',')).for_each(|entry| self.entry(at.clone(), entry));
            }
            _ if !at.is_empty() => (),
            name => self.found.push((name.span().start().line, name.to_string())),
        }
    }

    /// One of a `use` in braces.
    fn entry(&mut self, at: Vec<String>, entry: &[TokenTree]) {
        match entry {
            [TokenTree::Ident(super_), rest @ ..] if super_ == "super" => self.follow(parent(&at), rest),
            [name, ..] if at.is_empty() => self.found.push((name.span().start().line, name.to_string())),
            _ => (),
        }
    }
}

fn parent(module: &[String]) -> Vec<String> {
    module.split_last().map_or(Vec::new(), |(_, rest)| rest.to_vec())
}

/// Whether a brace after `before` opens a module.
fn module_named(before: &[TokenTree]) -> Option<String> {
    match before {
        [.., TokenTree::Ident(word), TokenTree::Ident(name)] if word == "mod" => Some(name.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "mod error; mod units; mod space; mod frames; mod map;";

    /// What is said of `text` as the module `name`.
    fn said(name: &str, text: &str) -> Vec<String> {
        let path = format!("vmalloc/src/{name}.rs");
        let tree = Tree::of(&[("vmalloc/src/lib.rs", ROOT), (&path, text)]);
        check(&tree).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn down_is_allowed() {
        assert_eq!(said("map", "use crate::space::A; use crate::units::B;"), [""; 0]);
        assert_eq!(said("space", "use crate::units::B; use self::arena::C; fn f() { crate::error::g() }"), [""; 0]);
        assert_eq!(said("units", "use super::error::E;"), [""; 0]);
    }

    #[test]
    fn sideways_is_found_in_the_middle() {
        let said = said("space", "use crate::units::B;\nuse crate::frames::F;");
        assert_eq!(said, ["vmalloc/src/space.rs:2: space (middle tier) names crate::frames"]);
    }

    #[test]
    fn upward_is_found_in_the_bottom() {
        let said = said("units", "use crate::space::F;\nfn f() { crate::map::g() }");
        assert_eq!(
            said,
            [
                "vmalloc/src/units.rs:1: units (bottom tier) names crate::space",
                "vmalloc/src/units.rs:2: units (bottom tier) names crate::map"
            ]
        );
    }

    #[test]
    fn braces_super_and_macros_hide_nothing() {
        let sideways = ["vmalloc/src/space.rs:1: space (middle tier) names crate::frames"];
        for text in [
            "use crate::{units, frames::F};",
            "use super::frames::F;",
            "mod inner { use super::super::frames::F; }",
            "mod inner { use super::{X, super::frames::F}; }",
            "fn f() { g!(crate::frames::F) }",
            "fn f(_: Option<&crate::frames::F>) {}",
        ] {
            assert_eq!(said("space", text), sideways, "{text}");
        }
    }

    #[test]
    fn the_root_is_above_the_middle() {
        assert_eq!(
            said("space", "use crate::*;")[0],
            "vmalloc/src/space.rs:1: space (middle tier) names everything in the crate's root"
        );
        assert_eq!(
            said("space", "use crate::Area;")[0],
            "vmalloc/src/space.rs:1: space (middle tier) names crate::Area"
        );
    }

    #[test]
    fn tests_may_name_whom_they_like() {
        assert_eq!(said("space", "#[cfg(test)] mod tests { use crate::frames::F; }"), [""; 0]);
    }
}
