// The kernels that know no format of weights. Each takes one struct, whose twin is in kernels/src/cuda/args.rs.
#include "attend.cuh"

KERNEL __launch_bounds__(256) norm(NormArgs a) { norm_row(a); }
KERNEL __launch_bounds__(256) quantize32(QuantizeArgs a) { quantize_32(a); }
KERNEL __launch_bounds__(256) quantize256(QuantizeArgs a) { quantize_256(a); }
KERNEL __launch_bounds__(256) add(EachArgs a) { add_rows(a); }
KERNEL __launch_bounds__(256) bias(EachArgs a) { add_bias(a); }
KERNEL __launch_bounds__(256) silu_gate(EachArgs a) { gate_silu(a); }
KERNEL __launch_bounds__(256) gelu_gate(EachArgs a) { gate_gelu(a); }
KERNEL __launch_bounds__(256) scale_cap(EachArgs a) { scale_and_cap(a); }
KERNEL __launch_bounds__(256) gate_rows(GateRowsArgs a) { gate_by_dot(a); }
KERNEL __launch_bounds__(256) move_heads(MoveHeadsArgs a) { copy_heads(a); }
KERNEL __launch_bounds__(256) pick(PickArgs a) { pick_rows(a); }
KERNEL __launch_bounds__(256) rope(RopeArgs a) { rope_rows(a); }
KERNEL __launch_bounds__(256) store(StoreArgs a) { store_rows(a); }
KERNEL __launch_bounds__(256) shift(ShiftArgs a) { shift_rows(a); }
KERNEL __launch_bounds__(128, 4) attend_128(AttendArgs a) { attend<16, 1>(a); }
KERNEL __launch_bounds__(128, 4) attend_256(AttendArgs a) { attend<8, 2>(a); }
KERNEL __launch_bounds__(128, 4) attend_512(AttendArgs a) { attend<8, 4>(a); }
KERNEL __launch_bounds__(128) attend_join(AttendArgs a) { join_chunks(a); }
KERNEL __launch_bounds__(256) choose(RouteArgs a) { choose_experts(a); }
KERNEL __launch_bounds__(512) group(RouteArgs a) { group_by_expert(a); }
KERNEL __launch_bounds__(256) combine(CombineArgs a) { combine_experts(a); }
KERNEL __launch_bounds__(1024) top(TopArgs a) { top_values(a); }
