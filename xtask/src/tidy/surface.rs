//! The methods of `Vmalloc` stand in one room: a reader of `api/` has seen all of them.

use super::Finding;
use super::tokens::only_for_tests;
use super::tree::{Source, Tree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{ItemImpl, ItemMod, Type};

const NAME: &str = "Vmalloc";
/// The room of its methods.
const ROOM: &str = "api";

/// Methods of `Vmalloc` in another room of the library.
pub fn check(tree: &Tree) -> Vec<Finding> {
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
    fn those_of_its_room_of_tests_and_of_other_types_are_fine() {
        assert_eq!(said("api", "impl<M: Machine> Vmalloc<M> { fn f(&self) {} }"), [""; 0]);
        assert_eq!(said("path", "#[cfg(test)] mod tests { impl Vmalloc<M> { fn f(&self) {} } }"), [""; 0]);
        assert_eq!(said("path", "impl Area<'_, Vmalloc<M>> { fn f(&self) {} }"), [""; 0]);
        assert_eq!(said("path", "unsafe impl<M: Machine> Sync for Vmalloc<M> {}"), [""; 0]);
    }
}
