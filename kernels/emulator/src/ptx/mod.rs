//! PTX as data: kernels of decoded instructions.
//!
//! A register is a number; immediates and special registers are registers too, which the warp fills once, so that an
//! instruction has nothing but registers to look at.

mod decode;
mod parse;

pub use parse::parse;

/// Types of values; `B` are bits without a meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are PTX's own")]
pub enum Type {
    Pred,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    BF16,
    F32,
    F64,
}

impl Type {
    /// Bytes in memory.
    pub fn bytes(self) -> usize {
        use Type::*;
        match self {
            Pred | U8 | S8 => 1,
            U16 | S16 | F16 | BF16 => 2,
            U32 | S32 | F32 => 4,
            U64 | S64 | F64 => 8,
        }
    }

    /// Whether it is a number with a sign.
    pub fn signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    /// Whether it is a floating-point number.
    pub fn float(self) -> bool {
        matches!(self, Type::F16 | Type::BF16 | Type::F32 | Type::F64)
    }
}

/// How a result is rounded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are PTX's own")]
pub enum Round {
    Nearest,
    Zero,
    Down,
    Up,
}

/// Comparisons; those with a `u` are true where one side is not a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are PTX's own")]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// Where memory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are PTX's own")]
pub enum Space {
    Global,
    Shared,
    Local,
    Param,
}

/// Ways of exchanging between lanes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are PTX's own")]
pub enum Shuffle {
    Idx,
    Up,
    Down,
    Bfly,
}

/// Products of the tensor cores, by their shape and types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names say shape and types")]
pub enum Mma {
    S8K16,
    S8K32,
    F16K16,
    BF16K16,
}

/// What an instruction does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are PTX's own")]
pub enum Op {
    Mov,
    /// Parts of equal size to one value, low part first.
    Pack,
    Unpack,
    Add,
    Sub,
    MulLow,
    MulHigh,
    MulWide,
    Mad,
    MadWide,
    Fma(Round),
    Div,
    Rem,
    Min,
    Max,
    Abs,
    Neg,
    And,
    Or,
    Xor,
    Not,
    Shl,
    Shr,
    /// 32 bits out of 64: to the left or not, the amount modulo 32 or at most 32.
    Funnel {
        left: bool,
        wrap: bool,
    },
    Bfi,
    Bfe,
    Popc,
    Clz,
    Prmt,
    Dp4a,
    Selp,
    Setp(Compare),
    /// From the second type to the first; `None` rounds as the types demand.
    Cvt(Option<Round>, bool, bool),
    Sqrt,
    Rcp,
    Rsqrt,
    Ex2,
    Lg2,
    Tanh,
    Bra,
    Ret,
    Barrier,
    WarpBarrier,
    Shuffle(Shuffle),
    Load(Space),
    Store(Space),
    AtomicAdd(Space),
    Mma(Mma),
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// What it does.
    pub op: Op,
    /// The type that it works on; of a conversion, the result's.
    pub ty: Type,
    /// Of a conversion, the type of what is converted.
    pub from: Type,
    /// Subnormal numbers are zero.
    pub ftz: bool,
    /// Bytes of the registers that are written: a load or a conversion extends a narrower number to them by its sign.
    pub width: usize,
    /// Registers that are written.
    pub to: Vec<u16>,
    /// Registers that are read.
    pub args: Vec<u16>,
    /// Bytes added to an address.
    pub offset: i64,
    /// Where a branch goes.
    pub target: usize,
    /// A predicate, and the value that it must have.
    pub guard: Option<(u16, bool)>,
    /// The line of the text.
    pub line: usize,
}

/// What the registers hold that no instruction writes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the names are PTX's own")]
pub enum Preset {
    Value(u64),
    TidX,
    NtidX,
    CtaidX,
    CtaidY,
    CtaidZ,
    NctaidX,
    NctaidY,
    NctaidZ,
    LaneId,
}

/// A kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// The code.
    pub code: Vec<Instruction>,
    /// How many registers there are.
    pub registers: usize,
    /// Registers that are filled before it starts.
    pub presets: Vec<(u16, Preset)>,
    /// Bytes of its parameters.
    pub parameters: usize,
    /// Size and place of each parameter.
    pub arguments: Vec<(usize, usize)>,
    /// Bytes of shared memory, without what the launch adds.
    pub shared: usize,
    /// Bytes of memory that each thread has for itself.
    pub local: usize,
    /// Threads of a block at most.
    pub most_threads: usize,
}

/// A file of PTX.
#[derive(Clone, Debug)]
pub struct Module {
    /// The version of PTX, as 80 for 8.0.
    pub version: u32,
    /// The compute capability that it was made for, as 75.
    pub target: u32,
    /// The kernels.
    pub kernels: Vec<Kernel>,
}
