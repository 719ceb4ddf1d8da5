//! Circles: files of one room of the library that name each other in a ring.
//!
//! A file names another if a path that starts with `crate`, `self` or `super` leads into it. What
//! a module has in common with the modules inside it does not count: a folder's file shows what
//! lies in the folder, and they may use what it defines.

use super::Finding;
use super::tokens::{is, shipped};
use super::tree::{Source, Tree};
use proc_macro2::{TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};

type Module = Vec<String>;
type Graph = BTreeMap<Module, BTreeSet<Module>>;

/// The rings that were there before this check: the room, and its files that may name each other.
/// None may be added.
const KNOWN: &[(&str, &[&str])] = &[
    ("frames", &["depot", "magazine"]),
    ("path", &["backing", "plan", "ready", "shortage", "supply"]),
    ("state", &["batch", "cpu"]),
];

/// Files of a room that are in a ring.
pub fn check(tree: &Tree) -> Vec<Finding> {
    beyond(tree, KNOWN)
}

fn beyond(tree: &Tree, known: &[(&str, &[&str])]) -> Vec<Finding> {
    let library =
        |source: &&Source| source.path.starts_with("vmalloc/src/") && !source.test && !source.module.is_empty();
    let sources: Vec<&Source> = tree.sources.iter().filter(library).collect();
    let files: BTreeSet<Module> = sources.iter().map(|source| source.module.clone()).collect();
    let graph: Graph = sources.iter().map(|source| (source.module.clone(), named(source, &files))).collect();
    let is_known = |one: &Module, other: &Module| {
        let in_ring = |files: &[&str], module: &Module| files.contains(&module[1..].join("::").as_str());
        known.iter().any(|(room, files)| one[0] == *room && in_ring(files, one) && in_ring(files, other))
    };
    let mut findings = Vec::new();
    for source in sources {
        let own = &source.module;
        for other in graph[own].iter().filter(|other| reaches(&graph, other, own) && !is_known(own, other)) {
            let what = format!("{} names {}, which leads back to it", own.join("::"), other.join("::"));
            findings.push(Finding::new(&source.path, 0, what));
        }
    }
    findings
}

/// Whether a chain of names leads from one file to the other.
fn reaches(graph: &Graph, from: &Module, to: &Module) -> bool {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(module) = next.pop() {
        if seen.insert(module) {
            next.extend(&graph[module]);
        }
    }
    seen.contains(to)
}

/// The other files of its room that a file names.
fn named(source: &Source, files: &BTreeSet<Module>) -> BTreeSet<Module> {
    let mut paths = Vec::new();
    let tokens: Vec<TokenTree> = shipped(source).into_iter().collect();
    walk(&source.module, &tokens, &mut paths);
    let file = |path: &Module| (1..=path.len()).rev().map(|n| path[..n].to_vec()).find(|path| files.contains(path));
    let own = &source.module;
    let beside = |other: &Module| other[0] == own[0] && !other.starts_with(own) && !own.starts_with(other);
    paths.iter().filter_map(file).filter(beside).collect()
}

/// Collects the paths that start with `crate`, `self` or `super` in the module `own`.
fn walk(own: &[String], tokens: &[TokenTree], paths: &mut Vec<Module>) {
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => walk(own, &inner(group.stream()), paths),
            TokenTree::Ident(first) if at == 0 || !is(&tokens[at - 1], ':') => {
                let start = match &*first.to_string() {
                    "crate" => Vec::new(),
                    "self" => own.to_vec(),
                    "super" => own[..own.len() - 1].to_vec(),
                    _ => continue,
                };
                follow(start, &tokens[at + 1..], paths);
            }
            _ => (),
        }
    }
}

fn inner(stream: TokenStream) -> Vec<TokenTree> {
    stream.into_iter().collect()
}

/// `rest` follows a path that means `at`.
fn follow(mut at: Module, rest: &[TokenTree], paths: &mut Vec<Module>) {
    match rest {
        [colon, other, next, rest @ ..] if is(colon, ':') && is(other, ':') => match next {
            TokenTree::Group(group) => {
                for entry in inner(group.stream()).split(|token| is(token, ',')) {
                    if let [TokenTree::Ident(name), rest @ ..] = entry {
                        follow(step(at.clone(), &name.to_string()), rest, paths);
                    }
                }
            }
            TokenTree::Ident(name) => follow(step(at, &name.to_string()), rest, paths),
            _ => paths.push(at),
        },
        _ => paths.push(std::mem::take(&mut at)),
    }
}

fn step(mut at: Module, name: &str) -> Module {
    match name {
        "self" => (),
        "super" => drop(at.pop()),
        name => at.push(name.to_owned()),
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of the room `space` with these files.
    fn said(files: [(&str, &str); 3], known: &[(&str, &[&str])]) -> Vec<String> {
        let paths = files.map(|(name, text)| (format!("vmalloc/src/space/{name}.rs"), text));
        let mut all = vec![("vmalloc/src/lib.rs", "mod space;"), ("vmalloc/src/space.rs", "mod a; mod b; mod c;")];
        all.extend(paths.iter().map(|(path, text)| (&**path, *text)));
        beyond(&Tree::of(&all), known).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn two_files_that_name_each_other_are_found_however_they_write_it() {
        for back in ["use super::a::A;", "use crate::space::{c::C, a};", "fn f() { crate::space::a::g() }"] {
            let found = said([("a", "use crate::space::b::B;"), ("b", back), ("c", "")], &[]);
            let expected =
                ["space::a names space::b, which leads back to it", "space::b names space::a, which leads back to it"];
            assert_eq!(found, expected, "{back}");
        }
    }

    #[test]
    fn a_ring_of_three_is_found_and_a_line_is_not() {
        let (a, b) = (("a", "use super::b::B;"), ("b", "use super::c::C;"));
        assert_eq!(said([a, b, ("c", "use super::a::A;")], &[]).len(), 3);
        assert_eq!(said([a, b, ("c", "use crate::units::U;")], &[]), [""; 0]);
    }

    #[test]
    fn a_known_ring_a_test_and_the_folder_s_file_are_not_told() {
        let two = [("a", "use super::b::B;"), ("b", "use super::a::A;"), ("c", "")];
        assert_eq!(said(two, &[("space", &["a", "b"])]), [""; 0]);
        assert_eq!(said(two, &[("frames", &["a", "b"]), ("space", &["a", "c"])]).len(), 2);
        let test = "#[cfg(test)] mod tests { use super::super::a::A; }";
        assert_eq!(said([("a", "use super::b::B;"), ("b", test), ("c", "use super::X;")], &[]), [""; 0]);
    }
}
