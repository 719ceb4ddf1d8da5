//! Which file is which module: from each crate's root along its `mod` items.

use super::Finding;
use super::tokens::only_for_tests;
use super::tree::Tree;
use crate::project::Target;
use proc_macro2::{TokenStream, TokenTree};
use std::collections::BTreeMap;
use syn::{Expr, ExprLit, Item, ItemMod, Lit, Meta};

/// A file's place in its crate.
pub struct Place {
    /// Its module; none for the root.
    pub module: Vec<String>,
    /// Reached only through tests, examples and benches.
    pub test: bool,
}

type Parsed<'a> = BTreeMap<&'a str, (syn::File, TokenStream)>;

/// Files that nothing compiles.
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.dead.iter().map(|path| Finding::new(path, 0, "no crate has this file as a module")).collect()
}

/// The place of each file that some target reaches.
pub fn places(files: &Parsed, targets: &[Target]) -> BTreeMap<String, Place> {
    let mut walk = Walk { files, found: BTreeMap::new() };
    for target in targets {
        let test = matches!(&*target.kind, "test" | "example" | "bench");
        walk.enter(&target.path, folder_of(&target.path), &[], test);
    }
    walk.found
}

struct Walk<'a> {
    files: &'a Parsed<'a>,
    found: BTreeMap<String, Place>,
}

impl Walk<'_> {
    /// Marks `path` and goes on to its modules, which lie in `folder`.
    fn enter(&mut self, path: &str, folder: &str, module: &[String], test: bool) {
        let Some((file, tokens)) = self.files.get(path) else { return };
        if self.found.get(path).is_some_and(|known| !known.test || test) {
            return;
        }
        self.found.insert(path.to_owned(), Place { module: module.to_vec(), test });
        for name in included(tokens.clone()) {
            let name = join(folder_of(path), &name);
            self.enter(&name, folder_of(&name), module, test);
        }
        self.items(&file.items, (path, folder), module, test);
    }

    fn items(&mut self, items: &[Item], at: (&str, &str), module: &[String], test: bool) {
        for item in items {
            if let Item::Mod(item) = item {
                self.module(item, at, module, test);
            }
        }
    }

    fn module(&mut self, item: &ItemMod, (path, folder): (&str, &str), module: &[String], test: bool) {
        let name = item.ident.to_string();
        let module = [module, std::slice::from_ref(&name)].concat();
        let test = test || item.attrs.iter().any(only_for_tests);
        let inner = join(folder, &name);
        match (&item.content, named_path(item)) {
            (Some((_, items)), _) => self.items(items, (path, &inner), &module, test),
            (None, Some(file)) => {
                let file = join(folder_of(path), &file);
                self.enter(&file, folder_of(&file), &module, test);
            }
            (None, None) => {
                self.enter(&format!("{inner}.rs"), &inner, &module, test);
                self.enter(&format!("{inner}/mod.rs"), &inner, &module, test);
            }
        }
    }
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn join(folder: &str, name: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in name.split('/') {
        match part {
            "." => (),
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// `#[path = "…"]`
fn named_path(item: &ItemMod) -> Option<String> {
    item.attrs.iter().find_map(|attr| match &attr.meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    })
}

/// The files of `include!("…")`, wherever it stands.
fn included(tokens: TokenStream) -> Vec<String> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut names = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        let of_include = at >= 2 && tokens[at - 2].to_string() == "include" && tokens[at - 1].to_string() == "!";
        match syn::parse2::<syn::LitStr>(group.stream()) {
            Ok(name) if of_include => names.push(name.value()),
            _ => names.extend(included(group.stream())),
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dead(files: &[(&str, &str)]) -> Vec<String> {
        Tree::of(files).dead
    }

    #[test]
    fn a_file_that_no_module_names_is_dead() {
        let tree = Tree::of(&[("a/src/lib.rs", "mod x;"), ("a/src/x.rs", ""), ("a/src/y.rs", "")]);
        assert_eq!(check(&tree), [Finding::new("a/src/y.rs", 0, "no crate has this file as a module")]);
    }

    #[test]
    fn modules_nest_in_files_folders_and_braces() {
        let files = [
            ("a/src/lib.rs", "mod x; mod y; mod z { mod deep; }"),
            ("a/src/x.rs", "mod in_x;"),
            ("a/src/x/in_x.rs", ""),
            ("a/src/y/mod.rs", "mod in_y;"),
            ("a/src/y/in_y.rs", ""),
            ("a/src/z/deep.rs", ""),
        ];
        assert_eq!(dead(&files), [""; 0]);
        let deep = Tree::of(&files).sources.into_iter().find(|source| source.path == "a/src/z/deep.rs");
        assert_eq!(deep.unwrap().module, ["z", "deep"]);
    }

    #[test]
    fn a_path_attribute_and_an_include_name_files_too() {
        let files = [
            ("a/src/lib.rs", "#[path = \"../odd.rs\"] mod x; fn f() { include!(\"part.rs\") }"),
            ("a/odd.rs", ""),
            ("a/src/part.rs", ""),
        ];
        assert_eq!(dead(&files), [""; 0]);
    }

    #[test]
    fn what_is_reached_only_through_tests_is_test_code() {
        let tree = Tree::of(&[
            ("a/src/lib.rs", "#[cfg(test)] mod x; mod y;"),
            ("a/src/x.rs", ""),
            ("a/src/y.rs", ""),
            ("a/tests/t.rs", "#[path = \"../src/y.rs\"] mod y; mod common;"),
            ("a/tests/common/mod.rs", ""),
        ]);
        let tests = tree.sources.iter().filter(|source| source.test).map(|source| &*source.path);
        assert_eq!(tests.collect::<Vec<_>>(), ["a/src/x.rs", "a/tests/common/mod.rs", "a/tests/t.rs"]);
        assert_eq!(tree.dead, [""; 0]);
    }
}
