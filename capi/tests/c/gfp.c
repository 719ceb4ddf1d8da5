// The flags of requests and of areas, as kernel.h has them.
#include "check.h"
#include <linux/gfp.h>
#include <linux/vmalloc.h>

#define TELL(name) printf("%s %#x\n", #name, (unsigned int)(name))

int main(void)
{
    TELL(__GFP_DMA);
    TELL(__GFP_HIGHMEM);
    TELL(__GFP_DMA32);
    TELL(__GFP_HIGH);
    TELL(__GFP_IO);
    TELL(__GFP_FS);
    TELL(__GFP_ZERO);
    TELL(__GFP_DIRECT_RECLAIM);
    TELL(__GFP_KSWAPD_RECLAIM);
    TELL(__GFP_NOWARN);
    TELL(__GFP_RETRY_MAYFAIL);
    TELL(__GFP_NOFAIL);
    TELL(__GFP_NORETRY);
    TELL(__GFP_COMP);
    TELL(__GFP_THISNODE);
    TELL(__GFP_ACCOUNT);
    TELL(__GFP_RECLAIM);
    TELL(GFP_KERNEL);
    TELL(GFP_NOFS);
    TELL(GFP_NOIO);
    TELL(GFP_ATOMIC);
    TELL(GFP_NOWAIT);
    TELL(VM_ALLOC);
    TELL(VM_MAP);
    TELL(VM_USERMAP);
    TELL(VM_MAP_PUT_PAGES);
    TELL(VM_ALLOW_HUGE_VMAP);
    return 0;
}
