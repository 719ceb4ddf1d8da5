//! The floors of the library: who may name whom.
//!
//! ```text
//! api · path · reclaim · state · {space, frames, table, flush} · bottom
//! ```
//!
//! A room names only itself and the floors below it. The rooms of the **middle** never name
//! each other, those of the **bottom** may. What the crate's root exports again belongs to the
//! top floor, whatever it is. Tests may name any room.

use super::Finding;
use super::tokens::{is, shipped};
use super::tree::{Source, Tree};
use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};

/// One room a floor, from the top.
const UPPER: [&str; 4] = ["api", "path", "reclaim", "state"];
/// The floor below these: rooms that never name each other.
pub const MIDDLE: [&str; 4] = ["flush", "frames", "space", "table"];
/// The lowest floor.
pub const BOTTOM: [&str; 6] = ["area", "error", "gfp", "machine", "sync", "units"];

/// Names of a room on the same floor or above, and rooms that stand on no floor.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let library = |source: &&Source| source.path.starts_with("vmalloc/src/") && !source.test;
    tree.sources.iter().filter(library).flat_map(check_source).collect()
}

fn check_source(source: &Source) -> Vec<Finding> {
    let Some(own) = source.module.first() else { return Vec::new() };
    if floor(own).is_none() {
        let what = format!("{own} stands on no floor: xtask/src/tidy/floors.rs lists them");
        return vec![Finding::new(&source.path, 0, what)];
    }
    let mut named = Names { module: source.module.clone(), found: Vec::new() };
    named.walk(shipped(source));
    let wrong = named.found.into_iter().filter(|(_, name)| !may_name(own, name));
    wrong.map(|(line, name)| Finding::new(&source.path, line, blame(own, &name))).collect()
}

/// The number of floors above the room; `None` for what is no room.
fn floor(room: &str) -> Option<usize> {
    let lower = [&MIDDLE[..], &BOTTOM[..]].into_iter();
    let mut floors = UPPER.chunks(1).chain(lower);
    floors.position(|rooms| rooms.contains(&room))
}

fn may_name(own: &str, other: &str) -> bool {
    let both_at_the_bottom = BOTTOM.contains(&own) && BOTTOM.contains(&other);
    own == other || both_at_the_bottom || floor(own) < floor(other) || floor(own) == Some(0)
}

fn blame(own: &str, other: &str) -> String {
    let beside = MIDDLE.contains(&own) && MIDDLE.contains(&other);
    let place = if beside { "which stands beside it" } else { "which stands above it" };
    match other {
        "*" => format!("{own} names everything in the crate's root, which stands above it"),
        other => format!("{own} names crate::{other}, {place}"),
    }
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

    const ROOT: &str = "mod api; mod error; mod units; mod space; mod frames; mod state; mod reclaim; mod path; mod x;";

    /// What is said of `text` as the module `name`.
    fn said(name: &str, text: &str) -> Vec<String> {
        let path = format!("vmalloc/src/{name}.rs");
        let tree = Tree::of(&[("vmalloc/src/lib.rs", ROOT), (&path, text)]);
        check(&tree).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn down_is_allowed() {
        assert_eq!(said("api", "use crate::path::A; use crate::units::B; use crate::{Vmalloc, frames};"), [""; 0]);
        assert_eq!(said("reclaim", "use crate::state::A; use crate::space::B; use super::units::C;"), [""; 0]);
        assert_eq!(said("space", "use crate::units::B; use self::arena::C; fn f() { crate::error::g() }"), [""; 0]);
        assert_eq!(said("units", "use super::error::E;"), [""; 0]);
    }

    #[test]
    fn upward_is_found_on_each_floor() {
        for (own, other) in [("path", "api"), ("reclaim", "path"), ("state", "reclaim"), ("space", "state")] {
            let text = format!("use crate::units::B;\nfn f() {{ crate::{other}::g() }}");
            let found = format!("vmalloc/src/{own}.rs:2: {own} names crate::{other}, which stands above it");
            assert_eq!(said(own, &text), [found]);
        }
        let found = ["vmalloc/src/units.rs:1: units names crate::space, which stands above it"];
        assert_eq!(said("units", "use crate::space::F;"), found);
    }

    #[test]
    fn sideways_is_found_in_the_middle() {
        let said = said("space", "use crate::units::B;\nuse crate::frames::F;");
        assert_eq!(said, ["vmalloc/src/space.rs:2: space names crate::frames, which stands beside it"]);
    }

    #[test]
    fn a_room_on_no_floor_is_found() {
        let found = ["vmalloc/src/x.rs: x stands on no floor: xtask/src/tidy/floors.rs lists them"];
        assert_eq!(said("x", "use crate::units::B;"), found);
    }

    #[test]
    fn braces_super_and_macros_hide_nothing() {
        let sideways = ["vmalloc/src/space.rs:1: space names crate::frames, which stands beside it"];
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
    fn the_root_belongs_to_the_top_floor() {
        assert_eq!(
            said("space", "use crate::*;"),
            ["vmalloc/src/space.rs:1: space names everything in the crate's root, which stands above it"]
        );
        assert_eq!(
            said("path", "use crate::Area;"),
            ["vmalloc/src/path.rs:1: path names crate::Area, which stands above it"]
        );
    }

    #[test]
    fn tests_and_comments_may_name_any_room() {
        assert_eq!(said("space", "#[cfg(test)] mod tests { use crate::frames::F; }"), [""; 0]);
        assert_eq!(said("space", "/// As [`F`](crate::frames::F).\nfn f() {}"), [""; 0]);
    }
}
