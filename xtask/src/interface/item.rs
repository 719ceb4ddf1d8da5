//! What an item adds to an interface.

use super::line;
use crate::tidy::only_for_tests;
use quote::ToTokens;
use syn::{
    Attribute, Fields, ImplItem, Item, ItemEnum, ItemImpl, ItemMacro, ItemStruct, ItemTrait, Signature, TraitItem,
    Type, Visibility,
};

/// Attributes that whoever uses an item has to know.
const TOLD: [&str; 4] = ["derive", "must_use", "non_exhaustive", "repr"];
/// What is set for proofs alone.
const PROOFS: [&str; 3] = ["loom", "interleave", "internals"];

/// An item that can be named.
pub struct Named {
    pub name: String,
    /// It can have methods.
    pub is_type: bool,
    /// What is to be known of it, to stand behind the name of its module; behind `::` that of its parts.
    pub lines: Vec<String>,
}

pub fn is_public(vis: &Visibility) -> bool {
    matches!(vis, Visibility::Public(_))
}

/// Whether the item is compiled for tests, for proofs or for documentation alone, or not to be seen.
pub fn left_out(item: &Item) -> bool {
    attributes(item).iter().any(|attr| {
        let text = attr.meta.to_token_stream().to_string();
        let proof = attr.path().is_ident("cfg") && PROOFS.iter().any(|word| text.contains(word));
        only_for_tests(attr) || proof || text.contains("hidden")
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(it) => &it.attrs,
        Item::Enum(it) => &it.attrs,
        Item::Fn(it) => &it.attrs,
        Item::Impl(it) => &it.attrs,
        Item::Macro(it) => &it.attrs,
        Item::Mod(it) => &it.attrs,
        Item::Static(it) => &it.attrs,
        Item::Struct(it) => &it.attrs,
        Item::Trait(it) => &it.attrs,
        Item::Type(it) => &it.attrs,
        Item::Use(it) => &it.attrs,
        _ => &[],
    }
}

/// Whether the item defines `name`; a call of a macro that has the word may.
pub fn defines(item: &Item, name: &str) -> bool {
    match item {
        Item::Const(it) => it.ident == name,
        Item::Enum(it) => it.ident == name,
        Item::Fn(it) => it.sig.ident == name,
        Item::Macro(it) => it.ident.is_none() && is_called_here(it),
        Item::Static(it) => it.ident == name,
        Item::Struct(it) => it.ident == name,
        Item::Trait(it) => it.ident == name,
        Item::Type(it) => it.ident == name,
        _ => false,
    }
}

/// Whether a macro makes items here that others may name.
fn is_called_here(it: &ItemMacro) -> bool {
    !it.mac.path.segments.last().is_some_and(|last| last.ident == "global_asm" || last.ident == "thread_local")
}

/// What a public item adds, by its own name or another one.
pub fn named(item: &Item, rename: Option<&str>) -> Option<Named> {
    let it = match item {
        Item::Const(it) if is_public(&it.vis) => plain(&it.ident, format!("const {}: {}", it.ident, line(&it.ty))),
        Item::Static(it) if is_public(&it.vis) => plain(&it.ident, format!("static {}: {}", it.ident, line(&it.ty))),
        Item::Fn(it) if is_public(&it.vis) => plain(&it.sig.ident, signature(&it.sig)),
        Item::Type(it) if is_public(&it.vis) => {
            plain(&it.ident, format!("type {}{} = {}", it.ident, line(&it.generics), line(&it.ty)))
        }
        Item::Struct(it) if is_public(&it.vis) => of_struct(it, rename),
        Item::Enum(it) if is_public(&it.vis) => of_enum(it, rename),
        Item::Trait(it) if is_public(&it.vis) => of_trait(it),
        Item::Macro(it) => of_macro(it)?,
        _ => return None,
    };
    Some(match rename {
        Some(new) => Named { lines: it.lines.iter().map(|line| line.replace(&it.name, new)).collect(), ..it },
        None => it,
    })
}

fn plain(name: &impl ToString, line: String) -> Named {
    Named { name: name.to_string(), is_type: false, lines: vec![line] }
}

/// Lines of a type: first itself, then what it has.
fn typed(name: String, shown: &str, head: String, parts: Vec<String>) -> Named {
    let parts = parts.into_iter().map(|part| format!("::{shown}: {part}"));
    Named { name, is_type: true, lines: std::iter::once(head).chain(parts).collect() }
}

fn of_struct(it: &ItemStruct, rename: Option<&str>) -> Named {
    let public: Vec<String> = it.fields.iter().filter(|field| is_public(&field.vis)).map(told_field).collect();
    let rest = match &it.fields {
        Fields::Unit => "",
        Fields::Named(_) if public.len() == it.fields.len() => " { }",
        Fields::Named(_) => " { .. }",
        Fields::Unnamed(_) if public.len() == it.fields.len() => "()",
        Fields::Unnamed(_) => "(..)",
    };
    let head = format!("struct {}{}{rest}{}", it.ident, line(&it.generics), bounds(&it.generics));
    let shown = rename.map_or_else(|| it.ident.to_string(), str::to_owned);
    typed(it.ident.to_string(), &shown, head, [told(&it.attrs), public].concat())
}

fn told_field(field: &syn::Field) -> String {
    let name = field.ident.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
    format!("pub {name}{}", line(&field.ty))
}

fn of_enum(it: &ItemEnum, rename: Option<&str>) -> Named {
    let variants = it.variants.iter().map(line).collect();
    let head = format!("enum {}{}{}", it.ident, line(&it.generics), bounds(&it.generics));
    let shown = rename.map_or_else(|| it.ident.to_string(), str::to_owned);
    typed(it.ident.to_string(), &shown, head, [told(&it.attrs), variants].concat())
}

fn of_trait(it: &ItemTrait) -> Named {
    let safety = if it.unsafety.is_some() { "unsafe " } else { "" };
    let above = if it.supertraits.is_empty() { String::new() } else { format!(": {}", line(&it.supertraits)) };
    let head = format!("{safety}trait {}{}{above}{}", it.ident, line(&it.generics), bounds(&it.generics));
    let items = it.items.iter().map(|item| match item {
        TraitItem::Const(it) => {
            let default = if it.default.is_some() { " = …" } else { "" };
            format!("const {}: {}{default}", it.ident, line(&it.ty))
        }
        TraitItem::Fn(it) => signature(&it.sig) + if it.default.is_some() { " { … }" } else { "" },
        TraitItem::Type(it) => format!("type {}: {}", it.ident, line(&it.bounds)),
        other => line(other),
    });
    typed(it.ident.to_string(), &it.ident.to_string(), head, items.collect())
}

/// A macro that others can call, or a call that makes items.
fn of_macro(it: &ItemMacro) -> Option<Named> {
    let exported = it.attrs.iter().any(|attr| attr.path().is_ident("macro_export"));
    match &it.ident {
        Some(name) if exported => Some(plain(name, format!("macro {name}!"))),
        None if is_called_here(it) => {
            let call = format!("{}! {{ {} }}", line(&it.mac.path), line(&it.mac.tokens));
            let structs = it.mac.tokens.clone().into_iter().map(|token| token.to_string()).collect::<Vec<_>>();
            let name = structs.windows(2).find(|pair| pair[0] == "struct").map(|pair| pair[1].clone());
            Some(Named { is_type: name.is_some(), name: name.unwrap_or_default(), lines: vec![call] })
        }
        _ => None,
    }
}

/// The last name of a type that has methods.
pub fn self_name(ty: &Type) -> Option<String> {
    match ty {
        Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
        Type::Reference(to) => self_name(&to.elem),
        _ => None,
    }
}

/// The public methods of an `impl`, or the trait.
pub fn implementation(it: &ItemImpl) -> Vec<String> {
    let safety = if it.unsafety.is_some() { "unsafe " } else { "" };
    if let Some((path, generics)) = it.trait_.as_ref().map(|of| (&of.0, line(&it.generics))) {
        return vec![format!(
            "{safety}impl{generics} {} for {}{}",
            line(path),
            line(&it.self_ty),
            bounds(&it.generics)
        )];
    }
    let public = it.items.iter().filter_map(|item| match item {
        ImplItem::Fn(it) if is_public(&it.vis) && !it.attrs.iter().any(only_for_tests) => Some(signature(&it.sig)),
        ImplItem::Const(it) if is_public(&it.vis) => Some(format!("const {}: {}", it.ident, line(&it.ty))),
        _ => None,
    });
    public.collect()
}

fn signature(sig: &Signature) -> String {
    line(sig)
}

/// The `where` of generics.
fn bounds(generics: &syn::Generics) -> String {
    generics.where_clause.as_ref().map(|bounds| format!(" {}", line(bounds))).unwrap_or_default()
}

fn told(attrs: &[Attribute]) -> Vec<String> {
    let known = |attr: &&Attribute| TOLD.iter().any(|name| attr.path().is_ident(name));
    attrs.iter().filter(known).map(line).collect()
}
