//! Attention: two contractions with rows between them, none of which anything else reads, become one kernel.

use kiln_ir::op::{Contract, Movement};
use kiln_ir::{Op, Value};

use super::role::{Role, Web};
use super::{Group, Kind};
use crate::Options;

/// Joins every product of scores with the rows and the contraction that the scores come from.
pub(super) fn join(web: &Web<'_>, options: &Options, groups: &mut [Group]) {
    for product in 0..groups.len() {
        let Some(found) = chain(web, groups, product) else { continue };
        let inputs = web.inputs(&found.members).len();
        if inputs + 1 > options.fuse.buffers {
            continue;
        }
        for at in found.merged {
            groups[at].members.clear();
        }
        let domain = groups[product].domain.clone();
        groups[product] = Group { kind: Kind::Attention, domain, members: found.members };
    }
}

/// Groups to merge into that of the product, and all members.
struct Chain {
    merged: [usize; 2],
    members: Vec<usize>,
}

fn chain(web: &Web<'_>, groups: &[Group], product: usize) -> Option<Chain> {
    let hero = contraction(web, &groups[product])?;
    let weights = *web.node(hero).operands.first()?;
    let (rows, mut views) = maker(web, groups, weights)?;
    let Kind::Row(axes) = &groups[rows].kind else { return None };
    let domain = &groups[rows].domain;
    let rank = domain.len();
    if rank < 2 || *axes != [rank - 1] {
        return None;
    }
    let inputs = web.inputs(&groups[rows].members);
    let of_scores = |v: &Value| {
        let (at, views) = maker(web, groups, *v).filter(|_| web.dims(*v) == domain.as_slice())?;
        contraction(web, &groups[at])?;
        Some((at, views))
    };
    let (scores, more) = inputs.iter().find_map(of_scores)?;
    views.extend(more);
    let all = [scores, rows, product];
    let mut members: Vec<usize> = all.iter().flat_map(|&g| groups[g].members.iter().copied()).collect();
    members.extend(views);
    members.sort_unstable();
    members.dedup();
    // Nothing but the result leaves the kernel.
    let outputs = web.outputs(&members);
    let own = web.outputs(&groups[product].members);
    (scores != product && outputs == own).then_some(Chain { merged: [scores, rows], members })
}

/// The contraction of a group that is built around one.
fn contraction(web: &Web<'_>, group: &Group) -> Option<usize> {
    let is_contraction = |&&m: &&usize| {
        matches!(web.node(m).op, Op::Contract(Contract::Einsum { .. })) && group.kind == Kind::Hero
    };
    group.members.iter().find(is_contraction).copied()
}

/// The group that makes a value, and the reshapes between them, which no group has.
fn maker(web: &Web<'_>, groups: &[Group], v: Value) -> Option<(usize, Vec<usize>)> {
    let mut views = vec![];
    let mut at = v;
    loop {
        let producer = web.producer(at)?;
        if let Some(found) = groups.iter().position(|g| g.members.contains(&producer)) {
            return Some((found, views));
        }
        let node = web.node(producer);
        let is_view = matches!(node.op, Op::Movement(Movement::Reshape { .. }));
        if !is_view || web.roles[producer] == Role::Free || views.len() > 2 {
            return None;
        }
        views.push(producer);
        at = node.operands[0];
    }
}
