//! The public interface of each crate that is published, as a committed file.
//!
//! `cargo xtask interface` writes `interface.txt` beside each `Cargo.toml`; tidy compares. Whoever changes
//! what others can name sees it in the diff, and so does whoever reviews it.
//!
//! From the source, by `syn`: rustdoc's JSON needs a nightly compiler, and its form changes with it. What a
//! macro of ours makes is shown as the call of the macro.
//!
//! - A **module** is walked from the crate's root along `pub mod` and `pub use`, so an item stands
//!   under the names by which others can name it.
//! - **Methods** and implementations are those of the types and traits that were found.

mod item;
mod text;

use crate::project::Project;
use crate::tidy::Finding;
use crate::tidy::tree::{Source, Tree};
use anyhow::Result;
use item::{Named, left_out};
use quote::ToTokens;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use syn::{Item, UseTree};

/// The crates that are published: the folder, and the name in code.
pub const PUBLISHED: [(&str, &str); 7] = [
    ("arch/x86_64", "vmalloc_x86_64"),
    ("guard", "vmalloc_guard"),
    ("kernel", "vmalloc_kernel"),
    ("machines/hosted", "vmalloc_hosted"),
    ("machines/window", "vmalloc_window"),
    ("scullv", "vmalloc_scullv"),
    ("vmalloc", "vmalloc"),
];

/// Writes the files anew.
pub fn write(project: &Project) -> Result<()> {
    let tree = Tree::read(project)?;
    for (folder, name) in PUBLISHED {
        fs::write(project.root.join(file_of(folder)), interface(&tree, folder, name))?;
    }
    Ok(())
}

/// Files that do not say what the source says. A crate without sources is not looked at.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let is_there = |folder: &str| tree.sources.iter().any(|source| source.path == format!("{folder}/src/lib.rs"));
    let committed = |path: &str| tree.texts.iter().find(|file| file.path == path).map(|file| file.text.as_str());
    let differs = |&(folder, name): &(&str, &str)| {
        let told = committed(&file_of(folder));
        is_there(folder) && told != Some(&interface(tree, folder, name))
    };
    let what = "is not the interface of the source: `cargo xtask interface` writes it";
    PUBLISHED.iter().filter(|of| differs(of)).map(|(folder, _)| Finding::new(&file_of(folder), 0, what)).collect()
}

fn file_of(folder: &str) -> String {
    format!("{folder}/interface.txt")
}

/// The interface of the crate in `folder`, a line for each thing that can be named.
fn interface(tree: &Tree, folder: &str, name: &str) -> String {
    let mut walk = Walk { modules: BTreeMap::new(), named: BTreeMap::new(), lines: BTreeSet::new() };
    let sources = tree.sources.iter().filter(|source| source.path.starts_with(&format!("{folder}/src/")));
    sources.filter(|source| !source.test).for_each(|source| walk.collect_file(source));
    walk.module(&[], name);
    walk.implementations();
    walk.lines.iter().map(|line| format!("{line}\n")).collect()
}

/// A path of modules from the crate's root.
type Path = Vec<String>;

struct Walk<'a> {
    /// The items of all modules of the crate, private ones too.
    modules: BTreeMap<Path, Vec<&'a Item>>,
    /// The types and traits that can be named, and the first name of each.
    named: BTreeMap<String, String>,
    lines: BTreeSet<String>,
}

impl<'a> Walk<'a> {
    fn collect_file(&mut self, source: &'a Source) {
        self.collect(&source.module, &source.ast.items);
    }

    fn collect(&mut self, module: &[String], items: &'a [Item]) {
        self.modules.entry(module.to_vec()).or_default();
        for item in items.iter().filter(|item| !left_out(item)) {
            if let Item::Mod(inner) = item
                && let Some((_, items)) = &inner.content
            {
                self.collect(&child(module, &inner.ident.to_string()), items);
            }
            self.modules.entry(module.to_vec()).or_default().push(item);
        }
    }

    fn items(&self, module: &[String]) -> Vec<&'a Item> {
        self.modules.get(module).cloned().unwrap_or_default()
    }

    /// What others can name in `module`, which they call `shown`.
    fn module(&mut self, module: &[String], shown: &str) {
        for item in self.items(module) {
            match item {
                Item::Mod(inner) if item::is_public(&inner.vis) => {
                    let name = inner.ident.to_string();
                    self.module(&child(module, &name), &format!("{shown}::{name}"));
                }
                Item::Use(it) if item::is_public(&it.vis) => self.uses(module, &it.tree, shown),
                item => self.item(item, None, shown),
            }
        }
    }

    /// A public item that others find in `shown`, perhaps by another name.
    fn item(&mut self, item: &'a Item, rename: Option<&str>, shown: &str) {
        if let Some(Named { name, is_type, lines }) = item::named(item, rename) {
            if is_type {
                self.named.entry(name.clone()).or_insert_with(|| format!("{shown}::{}", rename.unwrap_or(&name)));
            }
            let told = |line: String| {
                if line.starts_with("::") { shown.to_owned() + &line } else { format!("{shown}: {line}") }
            };
            self.lines.extend(lines.into_iter().map(told));
        }
    }

    /// What a `pub use` in `module` brings to `shown`.
    fn uses(&mut self, module: &[String], tree: &'a UseTree, shown: &str) {
        for Leaf { path, name, rename } in leaves(tree, &[]) {
            match name {
                Some(name) => self.brings(module, &path, &name, rename.as_deref(), shown),
                None => match self.resolve(module, &path) {
                    Some(from) => self.module(&from, shown),
                    None => drop(self.lines.insert(format!("{shown}: pub use {}::*", path.join("::")))),
                },
            }
        }
    }

    fn brings(&mut self, module: &[String], path: &[String], name: &str, rename: Option<&str>, shown: &str) {
        let (path, name) = match (name, path.split_last()) {
            ("self", Some((last, path))) => (path, last.as_str()),
            _ => (path, name),
        };
        let Some(from) = self.resolve(module, path) else {
            let path = [path, &[name.to_owned()]].concat().join("::");
            let renamed = rename.map(|name| format!(" as {name}")).unwrap_or_default();
            self.lines.insert(format!("{shown}: pub use {path}{renamed}"));
            return;
        };
        let as_module = child(&from, name);
        if self.modules.contains_key(&as_module) {
            return self.module(&as_module, &format!("{shown}::{}", rename.unwrap_or(name)));
        }
        for item in self.items(&from) {
            match item {
                Item::Use(it) => self.uses_of(&from, &it.tree, (name, rename), shown),
                item if item::defines(item, name) => self.item(item, rename, shown),
                _ => {}
            }
        }
    }

    /// A `use` that brings `wanted` to the module from which another `use` takes it.
    fn uses_of(&mut self, module: &[String], tree: &'a UseTree, (wanted, rename): (&str, Option<&str>), shown: &str) {
        let is_wanted = |leaf: &Leaf| leaf.name.as_deref() == Some(wanted) && leaf.rename.is_none();
        for leaf in leaves(tree, &[]).iter().filter(|leaf| is_wanted(leaf) && !leaf.path.is_empty()) {
            self.brings(module, &leaf.path, wanted, rename, shown);
        }
    }

    /// The module of this crate that `path` means in `module`.
    fn resolve(&self, module: &[String], path: &[String]) -> Option<Path> {
        let (first, rest) = path.split_first()?;
        let mut found = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.to_vec(),
            "super" => module.split_last()?.1.to_vec(),
            name => child(module, name),
        };
        found.extend(rest.iter().cloned());
        self.modules.contains_key(&found).then_some(found)
    }

    /// The methods of the types that were found, and the traits that they have.
    fn implementations(&mut self) {
        let all = self.modules.values().flatten().copied();
        let impls: Vec<_> = all.filter_map(|item| if let Item::Impl(it) = item { Some(it) } else { None }).collect();
        for it in impls {
            let Some(shown) = item::self_name(&it.self_ty).and_then(|name| self.named.get(&name)) else { continue };
            let lines = item::implementation(it);
            self.lines.extend(lines.into_iter().map(|line| format!("{shown}: {line}")));
        }
    }
}

/// One thing that a `use` brings.
struct Leaf {
    path: Path,
    /// `None` is a glob.
    name: Option<String>,
    rename: Option<String>,
}

/// All that the tree of a `use` below `path` brings.
fn leaves(tree: &UseTree, path: &[String]) -> Vec<Leaf> {
    let leaf = |name, rename| vec![Leaf { path: path.to_vec(), name, rename }];
    match tree {
        UseTree::Path(it) => leaves(&it.tree, &child(path, &it.ident.to_string())),
        UseTree::Group(it) => it.items.iter().flat_map(|tree| leaves(tree, path)).collect(),
        UseTree::Name(it) => leaf(Some(it.ident.to_string()), None),
        UseTree::Rename(it) => leaf(Some(it.ident.to_string()), Some(it.rename.to_string())),
        UseTree::Glob(_) => leaf(None, None),
    }
}

fn child(module: &[String], name: &str) -> Path {
    [module, &[name.to_owned()]].concat()
}

/// What is there, as one line of text.
fn line(tokens: &impl ToTokens) -> String {
    text::tidy(tokens.to_token_stream())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(files: &[(&str, &str)]) -> Vec<String> {
        interface(&Tree::of(files), "vmalloc", "vmalloc").lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_can_be_named_is_told_under_its_public_names() {
        let told = told(&[
            (
                "vmalloc/src/lib.rs",
                "pub mod area; mod api; pub use api::{Vm, inner::Deep as Shallow}; pub use other::Thing; mod hidden;",
            ),
            ("vmalloc/src/area.rs", "/// Doc.\n#[derive(Clone)] pub struct Info { pub start: usize, secret: u8 }"),
            (
                "vmalloc/src/api.rs",
                "pub mod inner; pub struct Vm<M: Machine>(M); impl<M: Machine> Vm<M> { pub fn f(&self, n: usize) -> Option<u8> { None } fn g() {} }",
            ),
            (
                "vmalloc/src/api/inner.rs",
                "pub enum Deep { A, B { n: u8 } } impl Drop for Deep { fn drop(&mut self) {} }",
            ),
            ("vmalloc/src/hidden.rs", "pub struct Nobody; impl Nobody { pub fn f() {} }"),
        ]);
        assert_eq!(
            told,
            [
                "vmalloc: enum Shallow",
                "vmalloc: pub use other::Thing",
                "vmalloc: struct Vm<M: Machine>(..)",
                "vmalloc::Shallow: A",
                "vmalloc::Shallow: B { n: u8 }",
                "vmalloc::Shallow: impl Drop for Deep",
                "vmalloc::Vm: fn f(&self, n: usize) -> Option<u8>",
                "vmalloc::area: struct Info { .. }",
                "vmalloc::area::Info: #[derive(Clone)]",
                "vmalloc::area::Info: pub start: usize",
            ]
        );
    }

    #[test]
    fn traits_tell_what_has_to_be_written_and_macros_are_told_as_they_are_called() {
        let told = told(&[(
            "vmalloc/src/lib.rs",
            "pub unsafe trait M: Sync { const N: bool = false; type T: F; fn a(&self) -> u8; fn b(&self) { } }\n\
             bitflags! { /// Doc.\n pub struct Gfp: u32 { const A = 1; } }\n\
             macro_rules! inner { () => {} } #[macro_export] macro_rules! outer { ($a:expr) => {} }\n\
             pub const fn f<const N: usize>(a: [u8; N]) -> (u8, &'static str) { todo!() }\n\
             #[cfg(any(loom, internals))] pub mod internals { pub struct A; } #[cfg(test)] pub mod tests {}",
        )]);
        assert_eq!(
            told,
            [
                "vmalloc: bitflags! { pub struct Gfp: u32 { const A = 1; } }",
                "vmalloc: const fn f<const N: usize>(a: [u8; N]) -> (u8, &'static str)",
                "vmalloc: macro outer!",
                "vmalloc: unsafe trait M: Sync",
                "vmalloc::M: const N: bool = …",
                "vmalloc::M: fn a(&self) -> u8",
                "vmalloc::M: fn b(&self) { … }",
                "vmalloc::M: type T: F",
            ]
        );
    }

    #[test]
    fn a_file_that_says_something_else_is_found() {
        let lib = ("vmalloc/src/lib.rs", "pub struct A;");
        let found = |file: &str| check(&Tree::of(&[lib, ("vmalloc/interface.txt", file)])).len();
        assert_eq!([found("vmalloc: struct A\n"), found("vmalloc: struct B\n")], [0, 1]);
        assert_eq!(check(&Tree::of(&[lib])).len(), 1, "there is none");
        assert_eq!(check(&Tree::of(&[("other/src/lib.rs", "pub struct A;")])), []);
    }
}
