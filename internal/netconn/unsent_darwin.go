package netconn

// notSentLowWater is TCP_NOTSENT_LOWAT of netinet/tcp.h.
const notSentLowWater = 0x201
