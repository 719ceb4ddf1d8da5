//! What the library shows to others.
//!
//! - The methods of `Vmalloc` stand in one room: a reader of `api/` has seen all of them.
//! - Other rooms than [`OPEN`] are private, and those of the middle floor export [`EXPORTS`]
//!   alone. Proofs and benches see more, through one module that asks for their `--cfg`.

use super::Finding;
use super::tokens::only_for_tests;
use super::tree::{Source, Tree};
use proc_macro2::Ident;
use quote::ToTokens;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemImpl, ItemMod, Type, UseTree, Visibility};

const NAME: &str = "Vmalloc";
/// The room of its methods.
const ROOM: &str = "api";

/// The rooms that others name, and the guide, which is documentation alone.
const OPEN: [&str; 8] = ["area", "error", "frames", "gfp", "guide", "machine", "table", "units"];
/// What others name in rooms of the middle floor.
const EXPORTS: [(&str, &[&str]); 2] = [
    ("frames", &["BadMap", "MAX_NODES", "MemoryRange", "STORAGE_ALIGN", "ZoneStats", "Zones"]),
    ("table", &["Walker", "X86_32", "X86_64", "X86Pae"]),
];

/// Methods of `Vmalloc` in another room of the library, and internals that others can name.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let library = |source: &&Source| source.path.starts_with("vmalloc/src/") && !source.test;
    let internals = tree.sources.iter().filter(library).flat_map(shown);
    methods(tree).into_iter().chain(internals).collect()
}

/// Public names that are not among those that others may name.
fn shown(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let exports = |module: &str| EXPORTS.iter().find(|(room, _)| *room == module);
    let (modules_alone, allowed): (bool, &[&str]) = match &source.module[..] {
        [] => (true, &OPEN),
        [module] => match exports(module) {
            Some((_, names)) => (false, names),
            None => return findings,
        },
        _ => return findings,
    };
    let items = source.ast.items.iter().filter(|item| matches!(item, Item::Mod(_)) || !modules_alone);
    for (name, line) in items.flat_map(public_names) {
        if !allowed.contains(&&*name) {
            findings.push(Finding::new(&source.path, line, format!("{name} is public: it belongs to the internals")));
        }
    }
    findings
}

/// The names that the item adds to what is public, with their lines. Not the module of the proofs.
fn public_names(item: &Item) -> Vec<(String, usize)> {
    let (attrs, vis, names): (&[Attribute], _, _) = match item {
        Item::Mod(it) => (&it.attrs, &it.vis, vec![it.ident.clone()]),
        Item::Use(it) => (&it.attrs, &it.vis, leaves(&it.tree)),
        Item::Struct(it) => (&it.attrs, &it.vis, vec![it.ident.clone()]),
        Item::Enum(it) => (&it.attrs, &it.vis, vec![it.ident.clone()]),
        Item::Type(it) => (&it.attrs, &it.vis, vec![it.ident.clone()]),
        Item::Const(it) => (&it.attrs, &it.vis, vec![it.ident.clone()]),
        Item::Trait(it) => (&it.attrs, &it.vis, vec![it.ident.clone()]),
        Item::Fn(it) => (&it.attrs, &it.vis, vec![it.sig.ident.clone()]),
        _ => return Vec::new(),
    };
    let public = matches!(vis, Visibility::Public(_)) && !attrs.iter().any(is_for_proofs);
    names.into_iter().filter(|_| public).map(|name| (name.to_string(), name.span().start().line)).collect()
}

fn is_for_proofs(attr: &Attribute) -> bool {
    attr.path().is_ident("cfg") && attr.meta.to_token_stream().to_string().contains("internals")
}

/// The names that a `use` brings.
fn leaves(tree: &UseTree) -> Vec<Ident> {
    match tree {
        UseTree::Path(path) => leaves(&path.tree),
        UseTree::Name(name) => vec![name.ident.clone()],
        UseTree::Rename(rename) => vec![rename.rename.clone()],
        UseTree::Glob(glob) => vec![Ident::new("everything", glob.star_token.span())],
        UseTree::Group(group) => group.items.iter().flat_map(leaves).collect(),
    }
}

/// Methods of `Vmalloc` in another room of the library.
fn methods(tree: &Tree) -> Vec<Finding> {
    let elsewhere = |source: &&Source| {
        source.path.starts_with("vmalloc/src/")
            && !source.test
            && source.module.first().is_none_or(|module| module != ROOM)
    };
    tree.sources.iter().filter(elsewhere).flat_map(check_source).collect()
}

fn check_source(source: &Source) -> Vec<Finding> {
    let mut impls = Impls(Vec::new());
    impls.visit_file(&source.ast);
    let what = format!("a method of {NAME} outside of vmalloc/src/{ROOM}");
    impls.0.into_iter().map(|line| Finding::new(&source.path, line, &*what)).collect()
}

/// The lines of `impl Vmalloc`, with items in it, outside of tests.
struct Impls(Vec<usize>);

impl<'a> Visit<'a> for Impls {
    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        if !item.attrs.iter().any(only_for_tests) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'a ItemImpl) {
        if is_ours(&item.self_ty) && !item.items.is_empty() && !item.attrs.iter().any(only_for_tests) {
            self.0.push(item.impl_token.span().start().line);
        }
    }
}

fn is_ours(ty: &Type) -> bool {
    match ty {
        Type::Path(path) => path.path.segments.last().is_some_and(|last| last.ident == NAME),
        Type::Reference(to) => is_ours(&to.elem),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str, text: &str) -> Vec<String> {
        let path = format!("vmalloc/src/{name}.rs");
        let tree = Tree::of(&[("vmalloc/src/lib.rs", "mod api; mod path;"), (&path, text)]);
        check(&tree).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn methods_in_another_room_are_found() {
        let found = ["vmalloc/src/path.rs:1: a method of Vmalloc outside of vmalloc/src/api"];
        for text in [
            "impl<M: Machine> Vmalloc<M> { fn f(&self) {} }",
            "impl<M: Machine> crate::api::instance::Vmalloc<M> { fn f(&self) {} }",
            "impl<M: Machine> Drop for Vmalloc<M> { fn drop(&mut self) {} }",
            "impl<M: Machine> T for &Vmalloc<M> { fn f(&self) {} }",
            "mod inner { impl<M: Machine> Vmalloc<M> { fn f(&self) {} } }",
        ] {
            assert_eq!(said("path", text), found, "{text}");
        }
    }

    #[test]
    fn internals_that_others_can_name_are_found() {
        let shown = |path: &str, text: &str| {
            let tree = if path.ends_with("lib.rs") {
                Tree::of(&[(path, text)])
            } else {
                Tree::of(&[("vmalloc/src/lib.rs", "pub mod frames; pub mod table;"), (path, text)])
            };
            check(&tree).into_iter().map(|finding| finding.to_string()).collect::<Vec<_>>()
        };
        let (root, room) = ("vmalloc/src/lib.rs", "vmalloc/src/table.rs");
        let found = |path, line, name| [format!("{path}:{line}: {name} is public: it belongs to the internals")];
        assert_eq!(shown(root, "pub mod units {}\npub mod space {}"), found(root, 2, "space"));
        assert_eq!(shown(root, "#[cfg(unix)] pub mod space {}"), found(root, 1, "space"));
        assert_eq!(shown(room, "mod range;\npub mod walk {}"), found(room, 2, "walk"));
        assert_eq!(shown(room, "pub use range::{\nPteRange};"), found(room, 2, "PteRange"));
        assert_eq!(shown(room, "pub use range::*;"), found(room, 1, "everything"));
        assert_eq!(shown(room, "pub struct Gap;"), found(room, 1, "Gap"));
        let none = [""; 0];
        assert_eq!(shown(root, "pub mod area {} mod space {} pub use space::A;"), none);
        assert_eq!(shown(root, "#[cfg(any(loom, internals))] pub mod internals { pub use crate::space; }"), none);
        assert_eq!(shown(room, "pub use format::X86_32; pub struct Walker; pub(crate) struct Gap; struct A;"), none);
    }

    #[test]
    fn those_of_its_room_of_tests_and_of_other_types_are_fine() {
        assert_eq!(said("api", "impl<M: Machine> Vmalloc<M> { fn f(&self) {} }"), [""; 0]);
        assert_eq!(said("path", "#[cfg(test)] mod tests { impl Vmalloc<M> { fn f(&self) {} } }"), [""; 0]);
        assert_eq!(said("path", "impl Area<'_, Vmalloc<M>> { fn f(&self) {} }"), [""; 0]);
        assert_eq!(said("path", "unsafe impl<M: Machine> Sync for Vmalloc<M> {}"), [""; 0]);
    }
}
