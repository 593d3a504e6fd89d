//! One statement to one instruction.

use super::{Compare, Instruction, Mma, Op, Preset, Round, Shuffle, Space, Type};
use std::collections::HashMap;

/// An instruction as text.
pub(super) struct Statement<'a> {
    pub text: &'a str,
    pub line: usize,
}

/// Gives numbers to registers while instructions come.
#[derive(Default)]
pub(super) struct Decoder {
    /// Addresses of parameters and variables.
    pub symbols: HashMap<String, u64>,
    pub code: Vec<Instruction>,
    names: HashMap<String, u16>,
    presets: HashMap<Preset, u16>,
    branches: Vec<(usize, String)>,
    dynamic: Vec<u16>,
    registers: u16,
}

/// The name of shared memory whose size the launch gives.
const DYNAMIC: &str = "shared_";

fn type_of(name: &str) -> Option<Type> {
    use Type::*;
    Some(match name {
        "pred" => Pred,
        "b8" | "u8" => U8,
        "b16" | "u16" => U16,
        "b32" | "u32" => U32,
        "b64" | "u64" => U64,
        "s8" => S8,
        "s16" => S16,
        "s32" => S32,
        "s64" => S64,
        "f16" => F16,
        "bf16" => BF16,
        "f32" => F32,
        "f64" => F64,
        _ => return None,
    })
}

/// Bytes of a register, which its name says as NVIDIA's compilers give it.
fn width_of(operand: &str) -> usize {
    let name = operand.trim_start_matches('{').trim_start();
    match name {
        _ if name.starts_with("%rd") || name.starts_with("%fd") => 8,
        _ if name.starts_with("%rs") => 2,
        _ => 4,
    }
}

/// Splits at commas that are in no brackets.
fn operands(text: &str) -> Vec<&str> {
    let (mut list, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in text.char_indices() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            ',' if depth == 0 => {
                list.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    if !text[start..].trim().is_empty() {
        list.push(text[start..].trim());
    }
    list
}

impl Decoder {
    fn fresh(&mut self) -> u16 {
        self.registers += 1;
        self.registers - 1
    }

    fn preset(&mut self, preset: Preset) -> u16 {
        if let Some(&register) = self.presets.get(&preset) {
            return register;
        }
        let register = self.fresh();
        self.presets.insert(preset, register);
        register
    }

    /// The register of an operand: a register, an immediate of a type, or an address.
    fn operand(&mut self, text: &str, ty: Type) -> Result<u16, String> {
        let special = match text {
            "%tid.x" => Some(Preset::TidX),
            "%ntid.x" => Some(Preset::NtidX),
            "%ctaid.x" => Some(Preset::CtaidX),
            "%ctaid.y" => Some(Preset::CtaidY),
            "%ctaid.z" => Some(Preset::CtaidZ),
            "%nctaid.x" => Some(Preset::NctaidX),
            "%nctaid.y" => Some(Preset::NctaidY),
            "%nctaid.z" => Some(Preset::NctaidZ),
            "%laneid" => Some(Preset::LaneId),
            "%tid.y" | "%tid.z" => Some(Preset::Value(0)),
            "%ntid.y" | "%ntid.z" => Some(Preset::Value(1)),
            _ => None,
        };
        if let Some(preset) = special {
            return Ok(self.preset(preset));
        }
        if let Some(name) = text.strip_prefix('%') {
            if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err(format!("register {text} is not emulated"));
            }
            if let Some(&register) = self.names.get(text) {
                return Ok(register);
            }
            let register = self.fresh();
            self.names.insert(text.to_owned(), register);
            return Ok(register);
        }
        if text == DYNAMIC {
            let register = self.fresh();
            self.dynamic.push(register);
            return Ok(register);
        }
        if let Some(&address) = self.symbols.get(text) {
            return Ok(self.preset(Preset::Value(address)));
        }
        immediate(text, ty).map(|value| self.preset(Preset::Value(value)))
    }

    /// The registers of `{a, b}`, or of one.
    fn list(&mut self, text: &str, ty: Type) -> Result<Vec<u16>, String> {
        match text.strip_prefix('{') {
            Some(inner) => inner.trim_end_matches('}').split(',').map(|one| self.operand(one.trim(), ty)).collect(),
            None => Ok(vec![self.operand(text, ty)?]),
        }
    }

    /// `[register+offset]`
    fn address(&mut self, text: &str) -> Result<(u16, i64), String> {
        let inner =
            text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).ok_or(format!("{text:?} is no address"))?;
        let (base, offset) = match inner.find(['+', '-']) {
            Some(i) => {
                (&inner[..i], inner[i..].trim_start_matches('+').parse().map_err(|_| format!("{text:?}: offset"))?)
            }
            None => (inner, 0),
        };
        Ok((self.operand(base.trim(), Type::U64)?, offset))
    }

    /// Decodes a statement.
    pub fn statement(&mut self, s: &Statement<'_>) -> Result<(), String> {
        self.decode(s).map_err(|what| format!("line {}: {}: {what}", s.line, s.text))
    }

    fn decode(&mut self, s: &Statement<'_>) -> Result<(), String> {
        let mut text = s.text;
        let mut guard = None;
        if let Some(rest) = text.strip_prefix('@') {
            let (name, rest) = rest.split_once(char::is_whitespace).ok_or("nothing is guarded")?;
            let wanted = !name.starts_with('!');
            guard = Some((self.operand(name.trim_start_matches('!'), Type::Pred)?, wanted));
            text = rest.trim();
        }
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let parts: Vec<&str> = name.split('.').collect();
        let (base, modifiers) = (parts[0], &parts[1..]);
        let ops = operands(rest);
        let types: Vec<Type> = modifiers.iter().filter_map(|m| type_of(m)).collect();
        let ty = types.first().copied().unwrap_or(Type::U32);
        let has = |name: &str| modifiers.contains(&name);
        let mut i = Instruction {
            op: Op::Ret,
            ty,
            from: types.last().copied().unwrap_or(ty),
            ftz: has("ftz"),
            width: width_of(ops.first().copied().unwrap_or("")),
            to: Vec::new(),
            args: Vec::new(),
            offset: 0,
            target: usize::MAX,
            guard,
            line: s.line,
        };
        let known = |allowed: &[&str]| -> Result<(), String> {
            match modifiers.iter().find(|m| type_of(m).is_none() && !allowed.contains(m)) {
                Some(other) => Err(format!(".{other} is not emulated")),
                None => Ok(()),
            }
        };
        let simple = |op: Op| -> Option<(Op, usize)> { Some((op, ops.len().saturating_sub(1))) };
        let arithmetic = match base {
            "add" => simple(Op::Add),
            "sub" => simple(Op::Sub),
            "mul" if has("wide") => simple(Op::MulWide),
            "mul" if has("hi") => simple(Op::MulHigh),
            "mul" => simple(Op::MulLow),
            "mad" if has("wide") => simple(Op::MadWide),
            "mad" if !has("hi") => simple(Op::Mad),
            "fma" if has("rm") && !has("ftz") => simple(Op::Fma(Round::Down)),
            "fma" => simple(Op::Fma(Round::Nearest)),
            "div" => simple(Op::Div),
            "rem" => simple(Op::Rem),
            "min" => simple(Op::Min),
            "max" => simple(Op::Max),
            "abs" => simple(Op::Abs),
            "neg" => simple(Op::Neg),
            "and" => simple(Op::And),
            "or" => simple(Op::Or),
            "xor" => simple(Op::Xor),
            "not" => simple(Op::Not),
            "shl" => simple(Op::Shl),
            "shr" => simple(Op::Shr),
            "shf" => simple(Op::Funnel { left: has("l"), wrap: has("wrap") }),
            "bfi" => simple(Op::Bfi),
            "bfe" => simple(Op::Bfe),
            "popc" => simple(Op::Popc),
            "clz" => simple(Op::Clz),
            "prmt" => simple(Op::Prmt),
            "dp4a" => simple(Op::Dp4a),
            "selp" => simple(Op::Selp),
            "sqrt" => simple(Op::Sqrt),
            "rcp" => simple(Op::Rcp),
            "rsqrt" => simple(Op::Rsqrt),
            "ex2" => simple(Op::Ex2),
            "lg2" => simple(Op::Lg2),
            "tanh" => simple(Op::Tanh),
            "cvta" => simple(Op::Mov),
            _ => None,
        };
        if let Some((op, args)) = arithmetic {
            known(&[
                "rn", "lo", "hi", "wide", "ftz", "approx", "rm", "full", "to", "global", "shared", "l", "r", "wrap",
                "clamp",
            ])?;
            if has("rm") && op != Op::Fma(Round::Down) {
                return Err(".rm is not emulated here".to_owned());
            }
            i.op = op;
            i.to = self.list(ops.first().ok_or("no result")?, ty)?;
            for text in &ops[1..=args] {
                // Amounts of a shift are 32 bits, the last of a choice is a predicate; neither matters to a register.
                i.args.push(self.operand(text, ty)?);
            }
            self.code.push(i);
            return Ok(());
        }
        match base {
            "mov" => {
                known(&[])?;
                let (to, from) = (self.list(ops[0], ty)?, self.list(ops[1], ty)?);
                i.op = match (to.len(), from.len()) {
                    (1, 1) => Op::Mov,
                    (1, _) => Op::Pack,
                    _ => Op::Unpack,
                };
                (i.to, i.args) = (to, from);
            }
            "cvt" => {
                known(&["rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi", "sat", "ftz"])?;
                if types.len() != 2 {
                    return Err("a conversion has two types".to_owned());
                }
                let round = [
                    ("rn", Round::Nearest),
                    ("rni", Round::Nearest),
                    ("rz", Round::Zero),
                    ("rzi", Round::Zero),
                    ("rm", Round::Down),
                    ("rmi", Round::Down),
                    ("rp", Round::Up),
                    ("rpi", Round::Up),
                ];
                let rounding = round.iter().find(|(name, _)| has(name)).map(|&(_, round)| round);
                let to_whole = ["rni", "rzi", "rmi", "rpi"].iter().any(|m| has(m));
                i.op = Op::Cvt(rounding, has("sat"), to_whole);
                i.to = self.list(ops[0], ty)?;
                i.args = vec![self.operand(ops[1], i.from)?];
            }
            "setp" => {
                use Compare::*;
                let name = modifiers.first().copied().unwrap_or("");
                let (compare, unsigned) = match name {
                    "eq" => (Eq, false),
                    "ne" => (Ne, false),
                    "lt" => (Lt, false),
                    "le" => (Le, false),
                    "gt" => (Gt, false),
                    "ge" => (Ge, false),
                    "lo" => (Lt, true),
                    "ls" => (Le, true),
                    "hi" => (Gt, true),
                    "hs" => (Ge, true),
                    "equ" => (Equ, false),
                    "neu" => (Neu, false),
                    "ltu" => (Ltu, false),
                    "leu" => (Leu, false),
                    "gtu" => (Gtu, false),
                    "geu" => (Geu, false),
                    "num" => (Num, false),
                    "nan" => (Nan, false),
                    _ => return Err(format!("comparison {name:?} is not emulated")),
                };
                known(&[name, "ftz"])?;
                if unsigned && ty.signed() {
                    return Err("an unsigned comparison of signed numbers".to_owned());
                }
                i.op = Op::Setp(compare);
                i.to = self.list(ops[0], Type::Pred)?;
                i.args = vec![self.operand(ops[1], ty)?, self.operand(ops[2], ty)?];
            }
            "bra" => {
                known(&["uni"])?;
                i.op = Op::Bra;
                self.branches.push((self.code.len(), ops[0].to_owned()));
            }
            "ret" | "exit" => i.op = Op::Ret,
            "bar" if has("warp") => {
                i.op = Op::WarpBarrier;
                i.args = vec![self.operand(ops[0], Type::U32)?];
            }
            "bar" | "barrier" => {
                known(&["sync", "cta", "aligned"])?;
                if ops != ["0"] {
                    return Err("only barrier 0 of all threads is emulated".to_owned());
                }
                i.op = Op::Barrier;
            }
            "shfl" => {
                let way = match modifiers {
                    ["sync", "idx", _] => Shuffle::Idx,
                    ["sync", "up", _] => Shuffle::Up,
                    ["sync", "down", _] => Shuffle::Down,
                    ["sync", "bfly", _] => Shuffle::Bfly,
                    _ => return Err("this shuffle is not emulated".to_owned()),
                };
                i.op = Op::Shuffle(way);
                i.to = ops[0].split('|').map(|one| self.operand(one.trim(), ty)).collect::<Result<_, _>>()?;
                for text in &ops[1..] {
                    i.args.push(self.operand(text, Type::U32)?);
                }
            }
            "ld" | "st" | "atom" | "red" => {
                let space = match modifiers.iter().find(|m| ["global", "shared", "local", "param"].contains(m)) {
                    Some(&"global") => Space::Global,
                    Some(&"shared") => Space::Shared,
                    Some(&"local") => Space::Local,
                    Some(&"param") => Space::Param,
                    _ => return Err("generic addresses are not emulated".to_owned()),
                };
                let name = ["global", "shared", "local", "param"];
                known(&[
                    name[0], name[1], name[2], name[3], "nc", "v2", "v4", "add", "volatile", "relaxed", "gpu", "cta",
                ])?;
                let (value, at) = if base == "ld" { (0, 1) } else { (1, 0) };
                match base {
                    "ld" | "st" => {
                        let registers = self.list(ops[value], ty)?;
                        let (address, offset) = self.address(ops[at])?;
                        i.offset = offset;
                        i.args = vec![address];
                        if base == "ld" {
                            (i.op, i.to) = (Op::Load(space), registers);
                        } else {
                            i.op = Op::Store(space);
                            i.args.extend(registers);
                        }
                    }
                    _ => {
                        if !has("add") {
                            return Err("only additions are emulated".to_owned());
                        }
                        i.op = Op::AtomicAdd(space);
                        let shift = usize::from(base == "atom");
                        if base == "atom" {
                            i.to = self.list(ops[0], ty)?;
                        }
                        let (address, offset) = self.address(ops[shift])?;
                        i.offset = offset;
                        i.args = vec![address, self.operand(ops[shift + 1], ty)?];
                    }
                }
            }
            "mma" => {
                let kind = match name {
                    "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32" => Mma::S8K16,
                    "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32" => Mma::S8K32,
                    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32" => Mma::F16K16,
                    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32" => Mma::BF16K16,
                    _ => return Err("this product is not emulated".to_owned()),
                };
                i.op = Op::Mma(kind);
                i.to = self.list(ops[0], Type::U32)?;
                for text in &ops[1..] {
                    let registers = self.list(text, Type::U32)?;
                    i.args.extend(registers);
                }
            }
            _ => return Err("this instruction is not emulated".to_owned()),
        }
        self.code.push(i);
        Ok(())
    }

    /// The code with its branches, how many registers there are, and what is in them at first.
    #[allow(clippy::type_complexity, reason = "the parts of a kernel")]
    pub fn finish(
        mut self,
        labels: &HashMap<String, usize>,
        dynamic: u64,
    ) -> Result<(Vec<Instruction>, usize, Vec<(u16, Preset)>), String> {
        for (at, label) in &self.branches {
            self.code[*at].target = *labels.get(label).ok_or_else(|| format!("label {label} is nowhere"))?;
        }
        let mut presets: Vec<(u16, Preset)> =
            self.presets.into_iter().map(|(preset, register)| (register, preset)).collect();
        presets.extend(self.dynamic.iter().map(|&register| (register, Preset::Value(dynamic))));
        Ok((self.code, usize::from(self.registers), presets))
    }
}

/// The bits of a literal.
fn immediate(text: &str, ty: Type) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no number");
    if let Some(hex) = text.strip_prefix("0f").or(text.strip_prefix("0F")).filter(|_| ty == Type::F32) {
        return u32::from_str_radix(hex, 16).map(u64::from).map_err(|_| wrong());
    }
    if let Some(hex) = text.strip_prefix("0d").or(text.strip_prefix("0D")).filter(|_| ty == Type::F64) {
        return u64::from_str_radix(hex, 16).map_err(|_| wrong());
    }
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let digits = digits.trim_end_matches('U');
    let value = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).map_err(|_| wrong())?,
        None => digits.parse::<u64>().map_err(|_| wrong())?,
    };
    let value = if negative { value.wrapping_neg() } else { value };
    Ok(match ty.bytes() {
        1 if ty == Type::Pred => value & 1,
        1 => value & 0xff,
        2 => value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    })
}
