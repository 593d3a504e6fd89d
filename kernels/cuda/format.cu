// The kernels of one format: -DBLOCKS=Q4_K, or -DPLAIN=F16 for weights that are plain floats. A module each, so that a driver
// compiles no more than a model needs. Each kernel takes one struct, whose twin is in kernels/src/cuda/args.rs.
#include "layer.cuh"
#include "matmul.cuh"

#ifdef BLOCKS
KERNEL __launch_bounds__(256, 2) matvec_1(Product p) { matvec<BLOCKS, 1>(p); }
KERNEL __launch_bounds__(256, 2) matvec_8(Product p) { matvec<BLOCKS, 8>(p); }
KERNEL __launch_bounds__(256, 2) matmul_n(Product p) { matmul<BLOCKS>(p); }
KERNEL __launch_bounds__(256) embed_rows(EmbedArgs a) { embed<BLOCKS>(a); }
#else
KERNEL __launch_bounds__(256, 2) matvec_1(Product p) { matvec_plain<PLAIN, 1>(p); }
KERNEL __launch_bounds__(256, 2) matvec_8(Product p) { matvec_plain<PLAIN, 8>(p); }
KERNEL __launch_bounds__(256, 2) matmul_n(Product p) { matmul_of<PLAIN>::run(p); }
KERNEL __launch_bounds__(256) embed_rows(EmbedArgs a) { embed_plain<PLAIN>(a); }
#endif
