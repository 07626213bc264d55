from llm_numba.kernels.basics_occupancy import occupancy

H100 = (9, 0)
for threads, registers, shared in (
    (256, 32, 0),
    (256, 64, 0),
    (256, 128, 16 * 1024),
    (1024, 64, 100 * 1024),
    (32, 32, 0),
    (384, 168, 200 * 1024),
):
    found = occupancy(threads, registers, shared, H100)
    print(
        f"{threads:4} threads, {registers:3} registers, {shared // 1024:3} KiB shared: "
        f"{found.blocks:2} blocks, {found.warps:2} of {found.max_warps} warps; "
        f"limit: {', '.join(found.limited_by)}"
    )
