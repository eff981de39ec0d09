//! Finds the expression of each mutant in the syntax tree of its file.

use std::collections::BTreeMap;
use std::ops::Range;

use proc_macro2::{LineColumn, Span};
use serde_json::Value;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::{Omitted, Outcome};

/// A mutant at its place: its number and the text that it puts there.
#[derive(Clone)]
pub struct Change {
    pub number: usize,
    pub text: String,
}

/// Something that mutants change, by the bytes of the source.
pub struct Place {
    /// All of it.
    pub whole: Range<usize>,
    pub kind: Kind,
    pub changes: Vec<Change>,
}

pub enum Kind {
    /// A function's statements, which a mutant replaces by a value.
    Body,
    /// `left operator right`.
    Binary { left: Range<usize>, operator: Range<usize>, right: Range<usize> },
    /// `!operand` or `-operand`; a mutant leaves the operator out.
    Unary { operand: Range<usize> },
    /// Behind the pattern of a match arm without a guard; a mutant leaves the arm out.
    Arm,
    /// The guard of a match arm; a mutant replaces it.
    Guard,
    /// A structure with `..base`; a mutant leaves out the field that its text names, by its bytes.
    Fields,
    /// The word `const` of a function whose body has mutants: a switch is not constant.
    Constant,
}

pub struct Places {
    pub found: Vec<Place>,
    pub left_out: Vec<(usize, &'static str)>,
}

/// `mutants` are those of the file whose text is `source`, with their numbers.
pub fn find(source: &str, mutants: &[(usize, &Value)], omitted: &Omitted) -> Outcome<Places> {
    let mut wanted: BTreeMap<Key, Vec<Change>> = BTreeMap::new();
    let mut left_out = Vec::new();
    for (number, mutant) in mutants {
        if omitted.numbers.contains(number) {
            left_out.push((*number, "omitted"));
            continue;
        }
        let text = mutant["replacement"].as_str().ok_or("a mutant without a replacement")?.to_owned();
        wanted.entry(key(mutant)?).or_default().push(Change { number: *number, text });
    }
    let lines = line_starts(source);
    let mut finder = Finder { source, lines, wanted, omitted, constant: 0, found: Vec::new(), left_out };
    finder.visit_file(&syn::parse_file(source)?);
    let unknown = finder.wanted.into_values().flatten().map(|it| (it.number, "not found in the syntax tree"));
    finder.left_out.extend(unknown);
    let mut found = finder.found;
    // From the outside in, in the order of the text.
    found.sort_by_key(|it| (it.whole.start, std::cmp::Reverse(it.whole.end)));
    Ok(Places { found, left_out: finder.left_out })
}

/// The genre of a mutant, and the line (from 1) and column (from 0, in characters) at which it starts.
type Key = (String, usize, usize);

fn key(mutant: &Value) -> Outcome<Key> {
    let start = &mutant["span"]["start"];
    let number = |name: &str| start[name].as_u64().ok_or("a mutant without a place");
    let genre = mutant["genre"].as_str().ok_or("a mutant without a genre")?.to_owned();
    Ok((genre, usize::try_from(number("line")?)?, usize::try_from(number("column")?)? - 1))
}

fn line_starts(source: &str) -> Vec<usize> {
    std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

struct Finder<'a> {
    source: &'a str,
    lines: Vec<usize>,
    wanted: BTreeMap<Key, Vec<Change>>,
    omitted: &'a Omitted,
    /// How many constants the visit is in: there is no choice at run time.
    constant: usize,
    found: Vec<Place>,
    left_out: Vec<(usize, &'static str)>,
}

impl Finder<'_> {
    fn offset(&self, at: LineColumn) -> usize {
        let start = self.lines[at.line - 1];
        let line = &self.source[start..];
        start + line.char_indices().nth(at.column).map_or(line.len(), |(offset, _)| offset)
    }

    fn bytes(&self, span: Span) -> Range<usize> {
        self.offset(span.start())..self.offset(span.end())
    }

    fn take(&mut self, genre: &str, span: Span) -> Vec<Change> {
        let start = span.start();
        let changes = self.wanted.remove(&(genre.to_owned(), start.line, start.column)).unwrap_or_default();
        if self.constant == 0 {
            return changes;
        }
        self.left_out.extend(changes.iter().map(|it| (it.number, "in a constant")));
        Vec::new()
    }

    fn add(&mut self, whole: Range<usize>, kind: Kind, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.found.push(Place { whole, kind, changes });
        }
    }

    fn function(&mut self, signature: &syn::Signature, block: &syn::Block, inside: impl FnOnce(&mut Self)) {
        let stays =
            signature.constness.is_some() && self.omitted.constant.contains(&signature.ident.to_string());
        let (outer, before) = (self.constant, self.found.len());
        self.constant = usize::from(stays);
        if let (Some(first), Some(last)) = (block.stmts.first(), block.stmts.last()) {
            let changes = self.take("FnValue", first.span());
            let whole = self.offset(first.span().start())..self.offset(last.span().end());
            self.add(whole, Kind::Body, changes);
        }
        inside(self);
        self.constant = outer;
        if let Some(word) = signature.constness.filter(|_| self.found.len() > before) {
            self.found.push(Place {
                whole: self.bytes(word.span()),
                kind: Kind::Constant,
                changes: Vec::new(),
            });
        }
    }

    fn constant(&mut self, inside: impl FnOnce(&mut Self)) {
        self.constant += 1;
        inside(self);
        self.constant -= 1;
    }
}

/// Whether `expression` is a condition with a `let` in it, which only stands where the compiler expects it.
fn has_let(expression: &syn::Expr) -> bool {
    match expression {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(it) if matches!(it.op, syn::BinOp::And(_)) => {
            has_let(&it.left) || has_let(&it.right)
        }
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_fn(&mut self, it: &'ast syn::ItemFn) {
        self.function(&it.sig, &it.block, |me| visit::visit_item_fn(me, it));
    }

    fn visit_impl_item_fn(&mut self, it: &'ast syn::ImplItemFn) {
        self.function(&it.sig, &it.block, |me| visit::visit_impl_item_fn(me, it));
    }

    fn visit_trait_item_fn(&mut self, it: &'ast syn::TraitItemFn) {
        if let Some(block) = &it.default {
            self.function(&it.sig, block, |me| visit::visit_trait_item_fn(me, it));
        }
    }

    fn visit_item_const(&mut self, it: &'ast syn::ItemConst) {
        self.constant(|me| visit::visit_item_const(me, it));
    }

    fn visit_item_static(&mut self, it: &'ast syn::ItemStatic) {
        self.constant(|me| visit::visit_item_static(me, it));
    }

    fn visit_impl_item_const(&mut self, it: &'ast syn::ImplItemConst) {
        self.constant(|me| visit::visit_impl_item_const(me, it));
    }

    fn visit_trait_item_const(&mut self, it: &'ast syn::TraitItemConst) {
        self.constant(|me| visit::visit_trait_item_const(me, it));
    }

    fn visit_expr_const(&mut self, it: &'ast syn::ExprConst) {
        self.constant(|me| visit::visit_expr_const(me, it));
    }

    fn visit_type_array(&mut self, it: &'ast syn::TypeArray) {
        self.constant(|me| visit::visit_type_array(me, it));
    }

    fn visit_expr_repeat(&mut self, it: &'ast syn::ExprRepeat) {
        self.visit_expr(&it.expr);
        self.constant(|me| me.visit_expr(&it.len));
    }

    fn visit_variant(&mut self, it: &'ast syn::Variant) {
        self.constant(|me| visit::visit_variant(me, it));
    }

    fn visit_expr_closure(&mut self, it: &'ast syn::ExprClosure) {
        // A closure in a `static` runs later.
        let outer = std::mem::take(&mut self.constant);
        visit::visit_expr_closure(self, it);
        self.constant = outer;
    }

    fn visit_expr_binary(&mut self, it: &'ast syn::ExprBinary) {
        let changes = self.take("BinaryOperator", it.op.span());
        if has_let(&it.left) || has_let(&it.right) {
            self.left_out.extend(changes.iter().map(|it| (it.number, "beside a `let`")));
        } else {
            let kind = Kind::Binary {
                left: self.bytes(it.left.span()),
                operator: self.bytes(it.op.span()),
                right: self.bytes(it.right.span()),
            };
            self.add(self.bytes(it.span()), kind, changes);
        }
        visit::visit_expr_binary(self, it);
    }

    fn visit_expr_unary(&mut self, it: &'ast syn::ExprUnary) {
        let changes = self.take("UnaryOperator", it.op.span());
        self.add(self.bytes(it.span()), Kind::Unary { operand: self.bytes(it.expr.span()) }, changes);
        visit::visit_expr_unary(self, it);
    }

    fn visit_arm(&mut self, it: &'ast syn::Arm) {
        let left_out = self.take("MatchArm", it.span());
        let behind = self.offset(it.pat.span().end());
        self.add(behind..behind, Kind::Arm, left_out);
        if let Some((_, guard)) = &it.guard {
            let changes = self.take("MatchArmGuard", guard.span());
            self.add(self.bytes(guard.span()), Kind::Guard, changes);
        }
        visit::visit_arm(self, it);
    }

    fn visit_expr_struct(&mut self, it: &'ast syn::ExprStruct) {
        let mut changes = Vec::new();
        if it.rest.is_some() {
            for pair in it.fields.pairs() {
                let end = pair.punct().map_or_else(|| pair.value().span().end(), |comma| comma.span().end());
                let field = self.offset(pair.value().span().start())..self.offset(end);
                for change in self.take("StructField", pair.value().span()) {
                    changes.push(Change { text: format!("{}..{}", field.start, field.end), ..change });
                }
            }
        }
        self.add(self.bytes(it.span()), Kind::Fields, changes);
        visit::visit_expr_struct(self, it);
    }
}
