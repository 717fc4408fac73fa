//! Grouping: heroes take their epilogues first, then every node, in schedule order, joins the groups that feed it.

use std::collections::BTreeSet;

use kiln_ir::op::{Conv, Elementwise, Layout, Movement, Quant, Reduce, ReduceKind};
use kiln_ir::{Dim, Ew, Op, Prim, ScalarNode, Value};

use super::role::{Role, Web, multiplies_integers};
use super::{Group, Kind, reduced_axes};
use crate::{NarrowWeights, Options, narrow};

/// Epilogue nodes that may be looked at beyond the last point with a single output.
const LOOKAHEAD: usize = 8;

/// Channels that a convolution gathers itself from where they come first: those of images.
const FEW_CHANNELS: i64 = 4;

/// Elements of an operand that outgrows the caches of a core: 1 MiB of f32.
const LARGE: i64 = 1 << 18;

struct Grow<'w, 'g> {
    web: &'w Web<'g>,
    options: &'w Options,
    /// Groups; a merged one is left empty.
    groups: Vec<Group>,
    /// Group of each position.
    of: Vec<Option<usize>>,
}

/// The groups of a graph, in the order of their first members.
pub(crate) fn groups(web: &Web<'_>, options: &Options) -> Vec<Group> {
    let mut grow = Grow { web, options, groups: vec![], of: vec![None; web.ids.len()] };
    for at in 0..web.ids.len() {
        match web.roles[at] {
            Role::Hero => grow.hero(at),
            Role::Alone => {
                grow.add(Kind::Hero, web.shape(at).to_vec(), vec![at]);
            }
            _ => {}
        }
    }
    for at in 0..web.ids.len() {
        if grow.of[at].is_none() {
            grow.join(at);
        }
    }
    grow.keep_free_outputs();
    grow.drop_views();
    super::attention::join(web, options, &mut grow.groups);
    let mut groups: Vec<Group> = grow.groups.into_iter().filter(|g| !g.members.is_empty()).collect();
    groups.sort_by_key(|g| g.members[0]);
    groups
}

impl Grow<'_, '_> {
    fn add(&mut self, kind: Kind, domain: Vec<Dim>, members: Vec<usize>) -> usize {
        let id = self.groups.len();
        for &m in &members {
            self.of[m] = Some(id);
        }
        self.groups.push(Group { kind, domain, members });
        id
    }

    /// A hero with the longest epilogue that leaves one output.
    fn hero(&mut self, at: usize) {
        let web = self.web;
        let domain = web.shape(at).to_vec();
        let mut members = vec![];
        members.extend(self.few_channels(at).or_else(|| self.gate(at)));
        members.extend(self.weights(at));
        members.push(at);
        let mut best = members.clone();
        let mut open: BTreeSet<usize> = web.to[at].iter().copied().collect();
        while let Some(u) = open.pop_first() {
            if members.len() > best.len() + LOOKAHEAD {
                break;
            }
            if !self.fits_epilogue(u, &members) {
                continue;
            }
            let place = members.binary_search(&u).unwrap_or_else(|p| p);
            members.insert(place, u);
            open.extend(&web.to[u]);
            if web.outputs(&members).len() == 1 && self.within_limits(&members) {
                best = members.clone();
            }
        }
        self.take_bytes(at, &mut best);
        self.add(Kind::Hero, domain, best);
    }

    /// What widens constant weights for a contraction alone, so that it reads them in their few bits.
    fn weights(&self, at: usize) -> Vec<usize> {
        let web = self.web;
        let nodes = narrow::widening(web.graph, &web.uses, web.ids[at], NarrowWeights::Halves);
        let results = nodes.iter().filter_map(|&id| web.graph.node(id).results.first());
        let found: Vec<usize> = results.filter_map(|&v| web.producer(v)).collect();
        let own = found.iter().all(|&p| self.of[p].is_none() && p < at);
        if own { found } else { vec![] }
    }

    /// Takes in what dequantizes bytes for the epilogue of `hero` alone, so that it reads bytes.
    fn take_bytes(&self, hero: usize, members: &mut Vec<usize>) {
        let web = self.web;
        let epilogue: Vec<usize> = members.iter().copied().filter(|&m| m > hero).collect();
        for m in epilogue {
            for &v in &web.reads[m] {
                let dequantizes = |p: &usize| {
                    matches!(web.node(*p).op, Op::Quant(Quant::Dequantize { .. }))
                        && self.of[*p].is_none()
                        && members.binary_search(p).is_err()
                };
                let Some(p) = web.producer(v).filter(dequantizes) else { continue };
                let own = web.uses.only_user(v) == Some(web.ids[m]) && web.dims(v) == web.shape(m);
                let place = members.binary_search(&p).unwrap_or_else(|place| place);
                if own {
                    members.insert(place, p);
                    if !self.within_limits(members) {
                        members.remove(place);
                    }
                }
            }
        }
    }

    /// The transpose that gives a convolution its few channels last, if nothing else reads it: rows of pixels are read as
    /// they are, while a kernel that moves a few channels would cost as much as the convolution. Bytes are moved: four that
    /// lie side by side are multiplied at once.
    fn few_channels(&self, at: usize) -> Option<usize> {
        let web = self.web;
        let Op::Conv(Conv::Forward { groups: 1, layout: Layout::ChannelsLast, .. }) = &web.node(at).op else {
            return None;
        };
        let (mut x, mut user) = (*web.node(at).operands.first()?, at);
        if multiplies_integers(&web.node(at).op) {
            return None;
        }
        let few = web.dims(x).last()?.as_known().is_some_and(|c| c <= FEW_CHANNELS);
        let alone = |x: Value, user: usize| web.uses.only_user(x) == Some(web.ids[user]);
        // What widens bytes stands between.
        while let Some(p) = web.producer(x).filter(|&p| web.roles[p] == Role::Free && alone(x, user)) {
            (x, user) = (*web.node(p).operands.first()?, p);
        }
        let producer =
            web.producer(x).filter(|&p| few && web.roles[p] == Role::Relabel && self.of[p].is_none())?;
        let transpose = matches!(web.node(producer).op, Op::Movement(Movement::Transpose { .. }));
        (transpose && alone(x, user)).then_some(producer)
    }

    /// The product that gives a pointwise convolution its input by one factor for each channel, if nothing else reads it:
    /// rows are scaled where they are packed for the convolution. That costs more than rows that are read in place, and
    /// less than a pass over memory.
    fn gate(&self, at: usize) -> Option<usize> {
        let web = self.web;
        let Op::Conv(Conv::Forward { groups: 1, layout: Layout::ChannelsLast, .. }) = &web.node(at).op else {
            return None;
        };
        let &[x, w] = web.node(at).operands.as_slice() else { return None };
        let one = |d: &Dim| d.as_known() == Some(1);
        let producer =
            web.producer(x).filter(|&p| web.roles[p] == Role::Pointwise && self.of[p].is_none())?;
        let node = web.node(producer);
        let [a, b] = node.operands.as_slice() else { return None };
        let product = matches!(&node.op, Op::Elementwise(e) if e.kind == Ew::named("mul"));
        let scale = |v: Value| {
            let dims = web.dims(v);
            dims.len() == web.dims(x).len() && dims[1..dims.len() - 1].iter().all(one)
        };
        let whole = |v: Value| web.dims(v) == web.dims(x);
        let gated = (whole(*a) && scale(*b)) || (whole(*b) && scale(*a));
        let elements = web.dims(x).iter().try_fold(1i64, |n, d| n.checked_mul(d.as_known()?));
        let large = elements.is_some_and(|n| n >= LARGE);
        let pointwise = web.dims(w).get(2..).is_some_and(|taps| taps.iter().all(one));
        (product && gated && large && pointwise && web.uses.only_user(x) == Some(web.ids[at]))
            .then_some(producer)
    }

    /// Whether a node is elementwise on the shape of what it takes from `members`, or drops or adds axes of size 1,
    /// and needs nothing else that depends on them.
    fn fits_epilogue(&self, u: usize, members: &[usize]) -> bool {
        let web = self.web;
        let inside = |p: &usize| members.binary_search(p).is_ok();
        let kind = match web.roles[u] {
            Role::Pointwise => {
                let own = web.reads[u].iter().filter(|&&v| web.producer(v).is_some_and(|p| inside(&p)));
                own.clone().all(|&v| web.dims(v) == web.shape(u))
            }
            Role::Relabel => matches!(web.node(u).op, Op::Movement(Movement::Reshape { .. })),
            Role::Outside | Role::Free | Role::Load | Role::Reduce | Role::Hero | Role::Alone => false,
        };
        if !kind || self.of[u].is_some() {
            return false;
        }
        let seen = self.downstream(members, &[u]);
        web.from[u].iter().all(|p| inside(p) || !seen[*p])
    }

    fn within_limits(&self, members: &[usize]) -> bool {
        let limits = &self.options.fuse;
        let buffers = self.web.inputs(members).len() + self.web.outputs(members).len();
        members.len() <= limits.nodes && buffers <= limits.buffers
    }

    /// The positions that depend on `members`, other than by an edge from them straight into `except`.
    fn downstream(&self, members: &[usize], except: &[usize]) -> Vec<bool> {
        let web = self.web;
        let mut seen = vec![false; web.ids.len()];
        let mut stack: Vec<usize> = vec![];
        let first = members.iter().flat_map(|&m| &web.to[m]);
        let first = first.filter(|u| members.binary_search(u).is_err() && !except.contains(u));
        self.visit(first, &mut seen, &mut stack);
        while let Some(p) = stack.pop() {
            self.visit(web.to[p].iter(), &mut seen, &mut stack);
        }
        seen
    }

    /// Marks positions; a group is one unit: what enters it anywhere leaves it everywhere.
    fn visit<'p>(&self, all: impl Iterator<Item = &'p usize>, seen: &mut [bool], stack: &mut Vec<usize>) {
        for p in all {
            let unit = self.of[*p].map_or(std::slice::from_ref(p), |g| &self.groups[g].members[..]);
            for &m in unit {
                if !seen[m] {
                    seen[m] = true;
                    stack.push(m);
                }
            }
        }
    }

    /// Whether merging `a` and `b` would make something depend on itself.
    fn would_cycle(&self, a: &[usize], b: &[usize]) -> bool {
        let depends = |from: &[usize], to: &[usize]| {
            let seen = self.downstream(from, to);
            to.iter().any(|&t| seen[t])
        };
        depends(a, b) || depends(b, a)
    }

    /// Makes a group of one node and merges into it the groups that feed it, where that is allowed.
    fn join(&mut self, at: usize) {
        let web = self.web;
        let kind = match web.roles[at] {
            Role::Pointwise | Role::Relabel | Role::Load => Kind::Loop,
            Role::Reduce => {
                let axes = reduced_axes(&web.node(at).op).unwrap_or(&[]);
                let rank = web.dims(web.node(at).operands[0]).len();
                let last = axes.iter().all(|a| a + axes.len() >= rank);
                if last { Kind::Row(axes.to_vec()) } else { Kind::Reduce(axes.to_vec()) }
            }
            Role::Outside | Role::Free | Role::Hero | Role::Alone => return,
        };
        let domain = match kind {
            Kind::Row(_) | Kind::Reduce(_) => web.dims(web.node(at).operands[0]).to_vec(),
            Kind::Loop | Kind::Hero | Kind::Attention => web.shape(at).to_vec(),
        };
        let mut mine = self.add(kind, domain, vec![at]);
        if web.roles[at] == Role::Load {
            return;
        }
        for &p in &web.from[at] {
            if let Some(theirs) = self.of[p].filter(|&g| g != mine) {
                mine = self.merge(theirs, mine, at).unwrap_or(mine);
            }
        }
    }

    /// Merges the group `from` into the group `into` that it feeds; gives the merged group if that is allowed.
    fn merge(&mut self, from: usize, into: usize, at: usize) -> Option<usize> {
        let (a, b) = (&self.groups[from], &self.groups[into]);
        let (kind, domain) = self.joint(a, b, at)?;
        let mut members: Vec<usize> = a.members.iter().chain(&b.members).copied().collect();
        members.sort_unstable();
        let fits = self.within_limits(&members)
            && self.outputs_fit(&kind, &domain, &members)
            && (kind == Kind::Loop || self.relabels_inputs(&kind, &domain, &members))
            && !self.compares_anew(&members)
            && !self.would_cycle(&a.members, &b.members);
        if !fits {
            return None;
        }
        for &m in &members {
            self.of[m] = Some(into);
        }
        self.groups[from].members.clear();
        self.groups[into] = Group { kind, domain, members };
        Some(into)
    }

    /// Whether members look for the elements of a value that equal its extreme, or take the extreme from them, and each loop
    /// of a kernel that computes the value may have rounding errors of its own: none might be equal, and none at distance 0.
    fn compares_anew(&self, members: &[usize]) -> bool {
        let web = self.web;
        members.iter().any(|&m| {
            let op = &web.node(m).op;
            let differs: fn(&Op, &Role) -> bool = match op {
                op if *op == Op::ew("eq") => is_rounded,
                op if *op == Op::ew("sub") => is_approximated,
                _ => return false,
            };
            web.node(m).operands.iter().any(|v| {
                let extreme = members.iter().any(|&r| {
                    let node = web.node(r);
                    web.roles[r] == Role::Reduce && is_extreme(&node.op) && node.operands[0] == *v
                });
                extreme && self.is_made_by(*v, m, members, differs)
            })
        })
    }

    /// Whether a member of such a kind is among those that make the operand `v` of `at`.
    fn is_made_by(&self, v: Value, at: usize, members: &[usize], kind: fn(&Op, &Role) -> bool) -> bool {
        let web = self.web;
        let inside = |p: &usize| members.binary_search(p).is_ok();
        let mut makers: Vec<usize> = web.from[at].iter().copied().filter(inside).collect();
        makers.retain(|&p| web.node(p).results.contains(&v));
        let mut seen: BTreeSet<usize> = makers.iter().copied().collect();
        while let Some(p) = makers.pop() {
            if kind(&web.node(p).op, &web.roles[p]) {
                return true;
            }
            makers.extend(web.from[p].iter().copied().filter(inside).filter(|&p| seen.insert(p)));
        }
        false
    }

    /// Kind and domain of two groups together, where `at` of `b` reads `a`.
    fn joint(&self, a: &Group, b: &Group, at: usize) -> Option<(Kind, Vec<Dim>)> {
        let web = self.web;
        if web.roles[at] == Role::Relabel {
            return self.joint_relabel(a, b, at);
        }
        let same = a.domain == b.domain;
        match (&a.kind, &b.kind) {
            (Kind::Loop, Kind::Loop) if same => Some((Kind::Loop, b.domain.clone())),
            (Kind::Row(x), Kind::Row(y)) if same && x == y => Some((b.kind.clone(), b.domain.clone())),
            (Kind::Row(axes), Kind::Loop) if same || is_reduced(&b.domain, &a.domain, axes) => {
                Some((a.kind.clone(), a.domain.clone()))
            }
            (Kind::Loop, Kind::Row(axes)) if same || is_reduced(&a.domain, &b.domain, axes) => {
                Some((b.kind.clone(), b.domain.clone()))
            }
            // A loop may only feed the reduction: its own results would need the reduction's loop to write them.
            (Kind::Loop, Kind::Reduce(_)) if same => Some((b.kind.clone(), b.domain.clone())),
            (Kind::Reduce(axes), Kind::Loop) if is_reduced(&b.domain, &a.domain, axes) => {
                Some((a.kind.clone(), a.domain.clone()))
            }
            _ => None,
        }
    }

    /// A transpose or unit reshape alone in `b` takes what it reads into its own domain, if nothing else needs it.
    fn joint_relabel(&self, a: &Group, b: &Group, at: usize) -> Option<(Kind, Vec<Dim>)> {
        let web = self.web;
        if let Kind::Row(axes) = &a.kind {
            let reduced = |d: &[Dim]| is_reduced(d, &a.domain, axes);
            let both = reduced(web.shape(at)) && reduced(web.dims(web.node(at).operands[0]));
            return both.then(|| (a.kind.clone(), a.domain.clone()));
        }
        let alone = b.members.len() == 1 && a.kind == Kind::Loop;
        let outputs = web.outputs(&a.members);
        let only = outputs.len() == 1 && web.uses.only_user(outputs[0]) == Some(web.ids[at]);
        // What a view of memory gives for nothing needs no kernel.
        let view = matches!(&web.node(at).op, Op::Movement(Movement::Reshape { .. }));
        (alone && only && !view).then(|| (Kind::Loop, b.domain.clone()))
    }

    /// Whether every output of a group has a shape that its kernel writes.
    fn outputs_fit(&self, kind: &Kind, domain: &[Dim], members: &[usize]) -> bool {
        let web = self.web;
        web.outputs(members).iter().all(|&v| {
            let dims = web.dims(v);
            match kind {
                Kind::Loop | Kind::Hero | Kind::Attention => dims == domain,
                Kind::Row(axes) => dims == domain || is_reduced(dims, domain, axes),
                Kind::Reduce(axes) => is_reduced(dims, domain, axes),
            }
        })
    }

    /// Free nodes that nodes outside of kernels read, or that are outputs, become kernels of their own.
    fn keep_free_outputs(&mut self) {
        let web = self.web;
        for at in 0..web.ids.len() {
            if web.roles[at] == Role::Free && !web.is_constant(at) && web.is_kept(at) {
                self.add(Kind::Loop, web.shape(at).to_vec(), vec![at]);
            }
        }
    }

    /// Whether transposes and unit reshapes read inputs, or other index maps of inputs, or reduced values.
    fn relabels_inputs(&self, kind: &Kind, domain: &[Dim], members: &[usize]) -> bool {
        let web = self.web;
        let reduced = |dims: &[Dim]| match kind {
            Kind::Row(axes) | Kind::Reduce(axes) => is_reduced(dims, domain, axes),
            Kind::Loop | Kind::Hero | Kind::Attention => false,
        };
        members.iter().filter(|&&m| web.roles[m] == Role::Relabel).all(|&m| {
            let inside = |p: &&usize| members.binary_search(p).is_ok();
            let maps = |p: &usize| matches!(web.roles[*p], Role::Relabel | Role::Load);
            let on_reduced = reduced(web.shape(m)) && reduced(web.dims(web.node(m).operands[0]));
            on_reduced || web.from[m].iter().filter(inside).all(maps)
        })
    }

    /// A reshape that is a group by itself is a view and stays outside, unless it reads what lives on as copies in
    /// kernels only.
    fn drop_views(&mut self) {
        let web = self.web;
        for group in &mut self.groups {
            if let [only] = group.members[..] {
                let node = web.node(only);
                let copied = |&v: &Value| {
                    let from = web.producer(v).filter(|&p| web.roles[p] == Role::Free);
                    from.is_some_and(|p| !web.is_constant(p) && !web.is_kept(p))
                };
                let view = matches!(node.op, Op::Movement(Movement::Reshape { .. }));
                if view && !node.operands.iter().any(copied) {
                    self.of[only] = None;
                    group.members.clear();
                }
            }
        }
    }
}

/// Whether an operator rounds.
fn is_rounded(op: &Op, role: &Role) -> bool {
    const EXACT: [&str; 8] = ["relu", "neg", "abs", "max", "min", "clamp", "where", "sign"];
    match op {
        Op::Elementwise(_) => EXACT.iter().all(|name| *op != Op::ew(name)),
        _ => !matches!(role, Role::Relabel | Role::Load),
    }
}

/// Whether an operator is approximated: wide vectors and others then differ in the last bits, where they agree on what is
/// rounded correctly.
fn is_approximated(op: &Op, _: &Role) -> bool {
    let Op::Elementwise(Elementwise { kind, .. }) = op else { return false };
    let approximated = |node: &ScalarNode| match node {
        ScalarNode::Apply(prim, _) => is_transcendental(*prim),
        ScalarNode::Param(_) | ScalarNode::Attr(_) | ScalarNode::Const(_) => false,
    };
    kind.body().nodes.iter().any(approximated)
}

fn is_transcendental(prim: Prim) -> bool {
    use Prim::*;
    let exponential = matches!(prim, Exp | Expm1 | Log | Log1p | Pow | Erf);
    let circular = matches!(prim, Sin | Cos | Tan | Asin | Acos | Atan);
    exponential || circular || matches!(prim, Sinh | Cosh | Tanh | Asinh | Acosh | Atanh)
}

/// Whether an operator gives the largest or the smallest element.
fn is_extreme(op: &Op) -> bool {
    matches!(op, Op::Reduce(Reduce::Axes { kind: ReduceKind::Max | ReduceKind::Min, .. }))
}

/// Whether `dims` is `domain` without `axes`, or with 1 in their place.
fn is_reduced(dims: &[Dim], domain: &[Dim], axes: &[usize]) -> bool {
    let rest = domain.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| d);
    if dims.len() == domain.len() {
        let mut pairs = dims.iter().zip(domain).enumerate();
        return pairs
            .all(|(i, (d, full))| if axes.contains(&i) { d.as_known() == Some(1) } else { d == full });
    }
    dims.len() + axes.len() == domain.len() && rest.eq(dims.iter())
}
